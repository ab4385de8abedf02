// Package mtasts knows the policies by which domains say that their mail hosts have TLS, and how these are called
// (MTA-STS, RFC 8461): it finds and fetches them, keeps them, and judges the names of mail hosts by them.
package mtasts
