// Command relayd runs a node of the mail relay: it makes and joins clusters,
// serves, checks configurations, and brings up a whole cluster on loopback to
// try things on.
package main
