// Package pki has the certificates of a cluster: its CA, what a node shows and trusts,
// which certificates count by the replicated state, and the token by which a new node
// is let in. It knows no network; its caller signs, records and hands out.
package pki
