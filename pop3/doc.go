// Package pop3 serves one frozen view of a maildrop per session and commits its
// deletions at QUIT. It speaks both sides of POP3 (RFC 1939 and what grew on
// it), and POP2 on request, and knows nothing about where mail comes from: a
// Backend checks who may come in and hands out Maildrops.
package pop3
