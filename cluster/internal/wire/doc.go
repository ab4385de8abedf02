// Package wire shares one authenticated port between the streams that members
// open to each other. TLS 1.3 with the cluster's own CA carries everything, the
// ALPN name says which service a connection is for, and a peer is who its
// certificate says it is: relay://<cluster>/<node>.
package wire
