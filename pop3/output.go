package pop3

import "time"

// free returns room for at least n octets behind c.out, flushing if need be.
// n is at most blockSize.
func (c *conn) free(n int) ([]byte, error) {
	if c.block == nil {
		c.block = c.srv.block()
		c.out = c.block[:0]
	}
	if cap(c.out)-len(c.out) < n {
		if err := c.flush(); err != nil {
			c.out = c.block[:0] // nobody will read it,
			c.partial = true    // and nothing may follow it
			return c.out[:cap(c.out)], err
		}
	}
	return c.out[len(c.out):cap(c.out)], nil
}

// directly is the most that is written in one call. Between two a session that
// was cut can stop.
const directly = 256 << 10

// put appends p to the output. Runs that are larger than a block are written
// from where they are.
func (c *conn) put(p []byte) error {
	for len(p) > 0 {
		room, err := c.free(1)
		if err != nil {
			return err
		}
		if len(c.out) == 0 && len(p) >= blockSize {
			n := min(len(p), directly)
			if err := c.write(p[:n]); err != nil {
				return err
			}
			p = p[n:]
			continue
		}
		n := copy(room, p)
		c.out = c.out[:len(c.out)+n]
		p = p[n:]
	}
	return nil
}

// flush writes what has been collected, in one call. After a cut it keeps it:
// farewell knows what may still be said.
func (c *conn) flush() error {
	if len(c.out) == 0 || c.outErr != nil {
		return c.outErr
	}
	if c.isCut() {
		return errCut
	}
	err := c.write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *conn) write(p []byte) error {
	if c.outErr != nil {
		return c.outErr
	}
	if err := c.renew(); err != nil {
		return err
	}
	_, c.outErr = c.nc.Write(p)
	return c.outErr
}

// renew moves the write deadline, not at every write but often enough.
func (c *conn) renew() error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return errCut
	}
	if limit := c.srv.cfg.WriteTimeout; now.Sub(c.renewed) > limit/deadlineSlop {
		c.renewed = now
		return c.raw.SetWriteDeadline(now.Add(limit))
	}
	return nil
}

// release gives the block back while nothing is to be written.
func (c *conn) release() {
	if c.block != nil && len(c.out) == 0 {
		c.srv.blocks.Put(c.block)
		c.block, c.out = nil, nil
	}
}

// line returns the output with room for one more line, to append to; say takes
// it back with CRLF.
func (c *conn) line() []byte {
	_, _ = c.free(1024)
	return c.out
}

func (c *conn) say(line []byte) { c.out = append(line, '\r', '\n') }

// ok answers +OK.
func (c *conn) ok(t text, n ...int64) {
	c.say(appendText(append(c.line(), "+OK "...), t, c.lang, "", n...))
}

// okCode answers +OK with a response code (RFC 2449 §8).
func (c *conn) okCode(code string, t text, n ...int64) {
	line := append(append(append(c.line(), "+OK ["...), code...), "] "...)
	c.say(appendText(line, t, c.lang, "", n...))
}

// err answers -ERR, with a response code where there is one.
func (c *conn) err(code string, t text) { c.errWith(code, t, "") }

func (c *conn) errWith(code string, t text, s string) {
	line := append(c.line(), "-ERR "...)
	if code != "" {
		line = append(append(append(line, '['), code...), "] "...)
	}
	c.say(appendText(line, t, c.lang, s))
}

// dot ends a multi-line reply whose lines need no stuffing.
func (c *conn) dot() {
	c.say(append(c.line(), '.'))
	c.partial = false
}
