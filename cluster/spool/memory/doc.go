// Package memory keeps the spool's ordered keys in a map. It loses everything
// at the end of the process, and is meant for tests and for trying commands out
// before they are proposed; what it does is checked by the same suite as the
// store on disk.
package memory
