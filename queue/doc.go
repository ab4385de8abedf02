// Package queue picks mail that is due, has an agent try it, and settles every
// recipient.
package queue
