// Package session is a node's right to act: it is had by registering, kept by renewing
// through the log, and counted so that the node stops by itself before the leader may
// give its work to others.
package session
