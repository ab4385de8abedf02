// Relayctl is the operator's hand on a cluster: it asks and steers any node
// over the admin HTTP API, and knows nothing else of the relay.
package main
