// Package liveness tells who is alive: the detector of sessions that are no longer
// renewed, the early election when a leader is silent, and the discovery of a leader
// that a node does not hear. It decides; its caller gives it functions for all that it
// needs of raft, of the other members and of the network.
package liveness
