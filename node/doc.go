// Package node builds one relay from its parts and turns protocol events into
// commands: what SMTP, POP3, the queue and the operator want becomes a
// proposal to the cluster, and what they read comes from the local replica.
package node
