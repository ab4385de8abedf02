//go:build !linux

package datadir

// BootID is empty: this system does not name its boots.
func BootID() string { return "" }
