// Package members knows who is a member, and where: the servers of the newest
// configuration and the tombs of removed nodes (Admission), and the addresses at which
// each may be found (AddressBook).
package members
