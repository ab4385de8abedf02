// Package admin lets an operator ask and steer a running cluster: the nouns
// and errors of the admin HTTP API, the ports a node implements behind it, the
// server, and the client that relayctl uses. It knows nothing of the cluster,
// the spool or the wire protocols; its JSON names are stable.
package admin
