// Package mailfile reads the messages of folders of .eml and .emlx files, Maildir, mbox
// and the plain-text mailboxes of teaching servers, one at a time and in an
// order that is the same each time, and writes folders of .eml files.
package mailfile
