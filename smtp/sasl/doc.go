// Package sasl proves who somebody is, on both sides of any protocol that carries
// SASL (RFC 4422): PLAIN, LOGIN, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
package sasl
