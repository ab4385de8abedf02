//go:build !linux

package log

import "os"

// datasync syncs the whole file where the system has nothing lighter.
func datasync(f *os.File) error { return f.Sync() }

// allocate is for systems that can.
func allocate(*os.File, int64) error { return nil }
