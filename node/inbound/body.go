package inbound

import (
	"hash"
	"slices"
	"sync/atomic"

	"relay/node/mailheader"
	"relay/node/milter"
	"relay/smtp"
)

// bodyState says where the octets of a message are while it is taken in.
//
//	bodyInline ─ more has come than goes inline ─┬► bodyHeldTop (somebody may change the top)
//	     │                                       └► bodyChunked
//	     └─ with its envelope it exceeds a frame ─► bodyChunked
//	bodyHeldTop, bodyChunked ─ Apply took it for a repeat ─► bodyDropped
type bodyState uint8

const (
	bodyInline  bodyState = iota // all that has come is at hand, to ride in the Accept
	bodyChunked                  // chunks went ahead, for the Accept to claim
	bodyHeldTop                  // so, and the first chunks, with the header section, are held back to go last
	bodyDropped                  // Apply has deleted the chunks: there is nothing to give up
)

// body is the octets of a message that is taken in: our trace field, the client's header
// section, and the text. Stages read and change it by methods, so that no stage knows where
// in a buffer another has put something.
type body struct {
	state  bodyState
	ended  bool              // the client has sent its last octet
	held   uint8             // bodyHeldTop: how many chunks the top is
	chunks uint32            // sent ahead or held back
	buf    []byte            // what has not gone ahead, the top apart
	top    []byte            // bodyHeldTop: trace field and header section
	trace  int               // octets of the trace field, at the beginning of top or else of buf
	head   mailheader.Header // of what the client has sent
	digest hash.Hash         // of the octets in the order in which they went into the log
	dedup  hash.Hash         // of the client's octets; nil: a repeat is not looked for
	owed   int               // octets at the end of buf, all the client has sent, that dedup lacks yet
	last   []byte            // what we have put on top, where it goes into digest last
	skip   int               // octets of it that are still in front
	twin   []byte            // what dedup would say, where digest has said it
	size   uint64            // of those
	tail   []byte            // the last two octets of what went ahead, the top apart
	sample []byte            // the beginning of a message that went ahead, for reports
	holder smtp.Holder       // is told what is held; nil: nobody counts
	flying atomic.Int64      // octets of the commands on their way that have a copy
}

// holds tells who counts what is held in memory until more has come, and reports whether
// there is room for more.
func (b *body) holds() bool {
	return b.holder == nil || b.holder.Holds(cap(b.buf)+cap(b.top)+cap(b.sample)+int(b.flying.Load()))
}

// sends tells that a command of n octets with a copy of the body, or of a part, is on its
// way; flying falls by as much when it has ended.
func (b *body) sends(n int) {
	b.flying.Add(int64(n))
	b.holds()
}

// sent is what the client has sent so far. This and the methods below, until edit, are
// for the beginning of a message, before anything went ahead.
func (b *body) sent() []byte { return b.buf[b.trace:] }

// fields are the header fields, as far as they are at hand.
func (b *body) fields() []byte { return b.buf[b.trace : b.trace+b.head.Fields] }

// section is the header section, with the empty line that ends it.
func (b *body) section() []byte { return b.buf[b.trace : b.trace+b.head.End] }

// text is what has come behind the header section.
func (b *body) text() []byte { return b.buf[b.trace+b.head.End:] }

// headerSeen reports whether the whole header section is at hand. If it is not, anything
// may stand in the rest.
func (b *body) headerSeen() bool { return b.ended || b.head.Whole }

// pay shows dedup the client's octets, before anything changes or moves them.
func (b *body) pay() {
	if b.owed > 0 {
		b.dedup.Write(b.buf[len(b.buf)-b.owed:])
		b.owed = 0
	}
}

// share has one reading do for both digests, where all that the client has sent so far is
// still as it was: what we have put on top goes into digest last.
func (b *body) share() {
	if b.owed > 0 {
		b.last, b.owed = slices.Clone(b.buf[:len(b.buf)-b.owed]), 0
		b.skip = len(b.last)
	}
}

// read shows digest the next octets of the body.
func (b *body) read(p []byte) {
	n := min(b.skip, len(p))
	b.skip -= n
	b.digest.Write(p[n:])
}

// readAll is called when digest has been shown the whole body.
func (b *body) readAll() {
	if b.last != nil {
		b.twin = b.digest.Sum(nil)
		b.digest.Write(b.last)
	}
}

// dedupDigest is the digest of what the client has sent.
func (b *body) dedupDigest() []byte {
	if b.twin != nil {
		return b.twin
	}
	b.pay()
	return b.dedup.Sum(nil)
}

// keepFields cuts the fields off behind n octets.
func (b *body) keepFields(n int) {
	gone := b.head.Fields - n
	if gone <= 0 {
		return
	}
	b.pay()
	last := b.trace + b.head.Fields
	b.buf = slices.Delete(b.buf, last-gone, last)
	b.head.End, b.head.Fields = b.head.End-gone, b.head.Fields-gone
}

// endSection puts the empty line behind the header section.
func (b *body) endSection() {
	b.pay()
	b.buf = slices.Insert(b.buf, b.trace+b.head.End, '\r', '\n')
	b.head.End += 2
}

// addFields puts fields in front of those of the client.
func (b *body) addFields(add []byte) {
	b.buf = slices.Insert(b.buf, b.trace, add...)
	b.head.End, b.head.Fields = b.head.End+len(add), b.head.Fields+len(add)
}

// holdTop keeps the top of a large message back, up to the end of its header section,
// where something may be done to it: chunks are known by their numbers, so the first
// ones may be sent last. The end of the section has been seen.
func (b *body) holdTop() {
	b.pay()
	n := b.trace + b.head.End
	b.top = slices.Clone(b.buf[:n])
	b.buf = append(b.buf[:0], b.buf[n:]...)
	b.state, b.held = bodyHeldTop, 1
	if n > oneChunk {
		b.held = 2
	}
	b.chunks = uint32(b.held)
}

// parts says where the fields end that a content filter sees, and where its text begins.
func parts(sent []byte) (fields, text int) {
	for _, f := range milter.Fields(sent) {
		fields += len(f)
	}
	if text = fields; len(sent) >= fields+2 && sent[fields] == '\r' && sent[fields+1] == '\n' {
		text += 2
	}
	return fields, text
}

// edit changes the message as content filters wish. The text of one that is not inline
// has gone ahead, and stays. Additions are bounded, and holdTop has left room for them.
// The trace field may be anywhere after.
func (b *body) edit(v *milter.Verdict) {
	b.pay()
	at := b.buf
	if b.state == bodyHeldTop {
		at = b.top
	}
	fields, text := parts(at[b.trace:])
	header := v.Edit(at[:b.trace], at[b.trace:b.trace+fields])
	gap, rest := at[b.trace+fields:b.trace+text], at[b.trace+text:]
	if b.state == bodyHeldTop {
		b.top = slices.Concat(header, gap, rest)
		return
	}
	if v.Body != nil {
		rest = withCRLF(v.Body)
	}
	b.buf = slices.Concat(header, gap, rest)
}

// putOnTop puts a field above all others, once all has come.
func (b *body) putOnTop(field []byte) {
	if b.state == bodyHeldTop {
		b.top = slices.Concat(field, b.top)
		return
	}
	b.buf = slices.Insert(b.buf, 0, field...)
}

// beginning is what reports return of the message: all of it where it is at hand.
func (b *body) beginning() []byte {
	if b.state == bodyInline {
		return b.buf
	}
	return b.sample
}

// lastTwo returns the last two octets of a text in two parts.
func lastTwo(before, part []byte) []byte {
	if len(part) < 2 {
		part = slices.Concat(before, part)
	}
	return slices.Clone(part[max(0, len(part)-2):])
}
