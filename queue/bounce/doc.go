// Package bounce writes the notices a sender gets about a message: that
// recipients have failed for good, are late, or were reached. They are
// multipart/report messages of RFC 3464 and 3461, and of RFC 6533 where
// addresses or headers are not ASCII.
package bounce
