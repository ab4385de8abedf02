// Package spool holds the accepted mail as a pure function of the commands
// applied to it: records, commands, Apply and views, over an ordered key-value
// interface. It knows no disk and no network.
package spool
