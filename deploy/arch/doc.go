// Package arch holds no code, only the tests that keep the shape of the tree:
// which package may import which, and what no package may do.
package arch
