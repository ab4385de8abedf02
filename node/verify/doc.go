// Package verify finds out who sends a message: SPF (RFC 7208) for the client
// and the reverse-path, DKIM (RFC 6376) for what the message says of itself,
// DMARC (RFC 7489) for whether either speaks for its author, and lists of
// clients in DNS (RFC 5782); and it writes down what it found as an
// Authentication-Results field (RFC 8601). It decides nothing: the use of a result is
// up to the caller.
package verify
