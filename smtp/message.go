package smtp

import (
	"errors"
	"io"
	"net/netip"
	"time"
)

// message is the reader that a Session's Data is given: the rest of a DATA, or a
// series of BDAT chunks with the commands between them. One belongs to each
// connection and is used again and again.
type message struct {
	c     *conn
	dot   dotReader
	kind  messageKind
	span  []byte      // decoded, not yet read; points into the input buffer
	until time.Time   // all of the message must have come by then
	clock *time.Timer // ends the call of Session.Data; nil: none is under way

	chunk int64 // octets still to come in the current BDAT
	last  bool  // it is the last one

	began   time.Time
	held    int64        // counted in holds
	block   netip.Prefix // that it is counted for
	kept    bool         // the Session says what it keeps, or keeps nothing
	crowded bool         // when it grew last, there was no room
	size    int64
	dropped int64  // octets that nobody read
	ended   bool   // the true end was seen
	refusal *Reply // why the message cannot be taken, whatever the backend says
	lost    error  // why the end will never be seen
}

type messageKind uint8

const (
	messageDots   messageKind = iota // DATA
	messageChunks                    // BDAT, lines
	messageBinary                    // BDAT, octets
)

// errBrokenOff: the client gave up its message and said something else.
const errBrokenOff = constError("smtp: the client broke the message off")

func (m *message) begin(kind messageKind) {
	m.release()
	now := time.Now()
	*m = message{c: m.c, kind: kind, began: now, until: now.Add(m.c.cfg.DataTimeout)}
	m.dot.lf = m.c.lines == linesLF && kind == messageDots
	m.dot.raw = kind != messageDots
}

// Read gives the message to the Session.
func (m *message) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(m.span) > 0 {
			k := copy(p[n:], m.span)
			m.span = m.span[k:]
			n += k
			continue
		}
		if err = m.err(); err != nil || n > 0 && !m.ready() {
			break
		}
		m.advance()
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, m.err()
}

// WriteTo spares io.Copy a buffer.
func (m *message) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if len(m.span) > 0 {
			n, err := w.Write(m.span)
			total += int64(n)
			if err != nil {
				return total, err
			}
			m.span = nil
		}
		if err := m.err(); errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
		m.advance()
	}
}

// err is what a Session sees after the last octet.
func (m *message) err() error {
	switch {
	case m.refusal != nil:
		return m.refusal
	case m.lost != nil:
		return m.lost
	case m.ended:
		return io.EOF
	}
	return nil
}

// ready reports whether advance can go on without waiting for the client.
func (m *message) ready() bool {
	return m.c.in.r < m.c.in.w && (m.kind == messageDots || m.chunk > 0)
}

// advance takes the next piece of input. It must not be called while span holds
// something, nor after the end.
func (m *message) advance() {
	if m.kind != messageDots && m.chunk == 0 {
		m.endChunk()
		return
	}
	in := &m.c.in
	if in.r == in.w {
		in.grow()
		if err := m.c.fill(false); err != nil {
			m.lose(err)
			return
		}
	}
	if m.kind == messageDots {
		out, used, end := m.dot.next(in.pending())
		in.r += used
		m.accept(out)
		if end {
			m.end()
		}
		if m.dot.broken {
			m.lost = errBrokenOff
		}
		return
	}
	block := in.pending()
	if int64(len(block)) > m.chunk {
		block = block[:m.chunk]
	}
	out, used := block, len(block)
	if m.kind == messageChunks {
		out, used, _ = m.dot.next(block)
	}
	in.r += used
	m.chunk -= int64(used)
	m.accept(out)
}

func (m *message) lose(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	m.lost = err
}

// accept takes decoded octets and enforces what holds for all of them.
func (m *message) accept(out []byte) {
	m.size += int64(len(out))
	if m.refusal == nil {
		if !m.kept {
			m.hold(min(m.size, holdMost))
		}
		switch {
		case m.crowded:
			m.refusal = replyTooMany
		case m.size > m.c.cfg.MaxSize:
			m.refusal = NewReply(552, "5.3.4", "Message too large")
		case m.dot.bare && !m.c.peer.Trusted:
			m.refusal = &Reply{
				Code: 550, Enhanced: "5.6.0", Text: "Lines in a message must end in CR LF, this one has a bare CR or LF",
				Reason: "bare_line_ends",
			}
		}
	}
	if m.refusal == nil {
		m.span = out
	}
}

// endChunk answers for a chunk that is complete, and goes on to the next one.
func (m *message) endChunk() {
	if m.last {
		if out := m.dot.flush(); out != nil {
			m.accept(out)
		}
		m.end()
		return
	}
	if err := m.c.nextChunk(); err != nil {
		m.lose(err)
	}
}

// end notes that the true end was seen. From now on the client waits.
func (m *message) end() {
	m.ended = true
	if m.clock != nil {
		m.clock.Reset(m.c.cfg.CallTimeout)
	}
}

// drain reads on to the true end, or to that of the chunk, so that nothing of a
// refused message can be taken for a command. It reports whether that worked.
// Nobody keeps what comes: it counts as the connection's buffers.
func (m *message) drain() bool {
	m.Holds(0)
	m.crowded = false
	defer m.release()
	most := 2*m.c.cfg.MaxSize + 1<<20
	start := m.size - int64(len(m.span))
	for {
		m.span = nil
		m.dropped = m.size - start
		switch {
		case m.ended || m.kind != messageDots && m.chunk == 0:
			return true
		case m.lost != nil || m.dropped > most:
			return false
		}
		m.advance()
	}
}
