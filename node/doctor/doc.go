// Package doctor judges a relay: facts about a node and its cluster go in, and a
// finding for each condition comes out. It asks nobody and reads nothing; the caller
// that fills the facts says of each that is missing why it is.
package doctor
