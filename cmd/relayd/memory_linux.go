package main

import "golang.org/x/sys/unix"

// totalMemory is the memory of the machine; 0: nobody knows.
func totalMemory() int64 {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return 0
	}
	return int64(uint64(i.Totalram) * uint64(i.Unit))
}
