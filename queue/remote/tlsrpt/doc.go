// Package tlsrpt makes the reports by which domains learn how mail to them was encrypted (TLS-RPT, RFC 8460): it counts
// sessions, puts counts together, and writes the report of a day.
package tlsrpt
