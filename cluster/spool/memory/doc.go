// Package memory keeps the spool's ordered keys in a map. It loses everything
// at the end of the process, and is meant for tests and for trying commands out
// before they are proposed; the suite that checks the store on disk checks it too.
package memory
