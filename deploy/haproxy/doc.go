// Package haproxy holds an example configuration of HAProxy before a cluster,
// and its test.
package haproxy
