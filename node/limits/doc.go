// Package limits has the limits of a cluster hold: on each node it asks the leader for shares while there is something
// to send, and on the leader it answers. Without limits it does nothing. See queue/limit.
package limits
