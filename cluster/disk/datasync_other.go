//go:build !linux

package disk

import "os"

// datasync syncs the whole file where the system has nothing lighter.
func datasync(f *os.File) error { return f.Sync() }
