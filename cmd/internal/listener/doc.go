// Package listener tells who listens at a port of this machine.
package listener
