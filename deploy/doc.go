// Package deploy is everything a site needs besides the binaries. It holds no
// code, only tests that the files of this folder fit the programs.
package deploy
