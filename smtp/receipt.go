package smtp

import "net"

// Receiver is a Session that wants to know whether the client has read that its
// message was taken.
type Receiver interface {
	// Received says that the client surely has read the 250 of the last message:
	// a command came that was sent behind it. It is called before the command is
	// looked at; where nobody can be sure, it is not called.
	Received()
}

// receipt is what is known of the client's reading of a 250 to a message.
//
// A client may send commands behind its message without waiting for the answer
// (RFC 2920 section 3.1), up to one that must be the last of its flight. So a
// command proves nothing where it, or one before it that need not have been the
// last, had arrived when the 250 was written, or where the client's system had
// not acknowledged the 250 when it was read.
type receipt uint8

const (
	receiptNone    receipt = iota
	receiptOwed            // the 250 is among the pending replies
	receiptFlight          // commands of the message's flight come
	receiptLast            // the last of them was read, its answer is pending
	receiptWritten         // the next input proves that the 250 was read
)

// tap counts what is read from below TLS, whose own buffers nobody can look into.
type tap struct {
	net.Conn
	reads int
}

// Read implements net.Conn.
func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.reads++
	return n, err
}

// owe notes that the 250 of a message is among the pending replies.
func (c *conn) owe() {
	if _, ok := c.sess.(Receiver); ok {
		c.receipt = receiptOwed
	}
}

// beforeReplies looks for input before pending replies are written: the client that
// has sent it has not read them.
func (c *conn) beforeReplies() {
	if c.receipt != receiptOwed && c.receipt != receiptLast {
		return
	}
	arrived, ok := unread(c.raw)
	switch {
	case !ok:
		c.receipt = receiptNone
	case arrived > 0 || c.in.r < c.in.w:
		c.receipt = receiptFlight
	default:
		c.receipt = receiptWritten
	}
	if c.tap != nil {
		c.tapped = c.tap.reads
	}
}

// arrived judges a command, or the beginning of a message, that was just read.
func (c *conn) arrived() {
	if c.receipt == receiptOwed {
		c.receipt = receiptFlight
	}
	if c.receipt != receiptWritten {
		return
	}
	if c.tap != nil && c.tap.reads == c.tapped { // TLS had it already
		c.receipt = receiptFlight
		return
	}
	c.receipt = receiptNone
	if octets, ok := unacked(c.raw); ok && octets == 0 {
		c.sess.(Receiver).Received()
	}
}

// awaitText waits for the beginning of a message where the end of a flight is to
// be told by it.
func (c *conn) awaitText() {
	if c.receipt != receiptLast || c.in.r < c.in.w {
		return
	}
	c.in.grow()
	if err := c.fill(false); err != nil {
		c.data.lose(err)
		return
	}
	c.arrived()
}

// endsFlight notes a command that must be the last of a flight.
func (c *conn) endsFlight(v *verb) {
	if c.receipt != receiptFlight {
		return
	}
	switch v.name {
	case "DATA", "EHLO", "HELO", "NOOP", "VRFY", "EXPN", "TURN", "AUTH", "STARTTLS", "HELP", "ETRN":
		c.receipt = receiptLast
	}
}
