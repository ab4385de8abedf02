// Package datadir is a node's data directory: who the node is (identity.json), what it
// has promised (the promise), its store and its log. It makes the directory of a new
// cluster, opens it, and rebuilds the membership of one whose majority is gone.
package datadir
