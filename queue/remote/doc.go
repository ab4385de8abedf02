// Package remote delivers over SMTP to the hops that a route names: it looks up
// the hosts of a domain, connects to one after the other, hands the message
// over, and turns every answer into a verdict for the queue.
package remote
