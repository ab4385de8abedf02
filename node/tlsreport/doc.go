// Package tlsreport tells domains once a day how mail to them was encrypted (TLS-RPT, RFC 8460). Each node counts its
// sessions in memory and leaves the counts in the cluster once an hour; the node that leads puts those of a day
// together, and sends one report for each domain that wants it.
package tlsreport
