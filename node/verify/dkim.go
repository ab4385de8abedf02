package verify

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"strings"
	"time"
)

// Bounds on what is verified, all of which is a stranger's choice.
const (
	maxSignatures = 5        // RFC 6376 §6.1 lets a verifier stop
	maxSignature  = 4 << 10  // octets of one DKIM-Signature field
	maxSection    = 64 << 10 // octets of a header section
	maxFields     = 600
)

// Signature is one DKIM-Signature of a message.
type Signature struct {
	Outcome  Outcome
	Domain   string // d=, which takes the responsibility
	Selector string // s=
	Tag      string // the beginning of b=, to tell signatures apart (RFC 6008)
	Reason   string // why it did not pass; empty where that is plain
}

// dkimCheck verifies the signatures of one message while its body goes by. Its cost is
// bounded: so many keys, and the body is hashed once for each of the two
// canonicalizations.
type dkimCheck struct {
	verifier   *Verifier
	ctx        context.Context
	signatures []Signature // of those that are verified
	claims     []*claim    // nil: judged already
	keys       []crypto.PublicKey
	fields     map[string][][]byte // by name in lower case
	bodies     [2]*bodyHash        // simple, relaxed; nil: nobody asks
}

// beginDKIM returns nil where there is nothing to verify. It asks for the keys.
func (v *Verifier) beginDKIM(c *Check, section []byte) *dkimCheck {
	found, tooMuch := findSignatures(section)
	if len(found) == 0 {
		return nil
	}
	d := &dkimCheck{verifier: v, ctx: c.ctx, signatures: found}
	if tooMuch {
		for i := range found {
			found[i].Outcome, found[i].Reason = Neutral, "more header than is verified"
		}
		return d
	}
	d.claims, d.keys = make([]*claim, len(found)), make([]crypto.PublicKey, len(found))
	d.fields = map[string][][]byte{}
	section = bytes.Clone(section)
	n := 0
	for name, field := range fields(section) {
		lower := strings.ToLower(strings.TrimSpace(name))
		d.fields[lower] = append(d.fields[lower], field)
		if lower == "dkim-signature" && n < len(found) {
			d.begin(c, n, field)
			n++
		}
	}
	return d
}

// begin reads one signature and asks for its key.
func (d *dkimCheck) begin(c *Check, i int, field []byte) {
	one, err := readClaim(field, time.Now())
	if err != nil {
		d.signatures[i].judge(err)
		return
	}
	form := 0
	if one.relaxedBody {
		form = 1
	}
	if d.bodies[form] == nil {
		d.bodies[form] = newBodyHash(one.relaxedBody)
	}
	d.claims[i] = one
	c.running.Go(func() {
		if key, err := d.key(one); err != nil {
			d.signatures[i].judge(err)
		} else {
			d.keys[i] = key
		}
	})
}

func (d *dkimCheck) key(one *claim) (crypto.PublicKey, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.verifier.Timeout)
	defer cancel()
	records, err := d.verifier.Resolver.TXT(ctx, one.selector+"._domainkey."+one.domain)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, permanent("no key for signature")
	case err != nil:
		return nil, &finding{TempError, "key unavailable"} // not what our name servers said
	}
	if err := boundKeys(records); err != nil {
		return nil, permanent("no key for signature")
	}
	return one.publicKey(records)
}

// write hashes a part of the body.
func (d *dkimCheck) write(p []byte) {
	const part = 64 << 10
	for len(p) > 0 && (d.bodies[0] != nil || d.bodies[1] != nil) {
		n := min(len(p), part)
		if !d.verifier.work(d.ctx, func() {
			for _, h := range d.bodies {
				if h != nil {
					h.write(p[:n])
				}
			}
		}) {
			d.bodies = [2]*bodyHash{} // nobody waits for what is found any more
		}
		p = p[n:]
	}
}

// results checks the signatures and returns what is known. All look-ups that were
// begun must have ended.
func (d *dkimCheck) results() []Signature {
	var sums [2][]byte
	for i, h := range d.bodies {
		if h != nil {
			sums[i] = h.end()
		}
	}
	for i := range d.signatures {
		s, one := &d.signatures[i], (*claim)(nil)
		if s.Outcome == "" {
			one = d.claims[i]
		}
		if one == nil {
			continue
		}
		sum := sums[0]
		if one.relaxedBody {
			sum = sums[1]
		}
		err := error(&finding{TempError, "not finished in time"})
		if sum != nil {
			d.verifier.work(d.ctx, func() { err = one.check(d.fields, sum, d.keys[i]) })
		}
		s.judge(err)
	}
	return d.signatures
}

// work does what takes a processor, when it is its turn. It reports whether that
// was before the end of ctx.
func (v *Verifier) work(ctx context.Context, do func()) bool {
	if v.Slots != nil {
		select {
		case v.Slots <- struct{}{}:
		default:
			select {
			case v.Slots <- struct{}{}:
			case <-ctx.Done():
				return false
			}
		}
		defer func() { <-v.Slots }()
	}
	do()
	return true
}

// judge puts what was found into the words of RFC 8601 §2.7.1.
func (s *Signature) judge(err error) {
	f := &finding{outcome: Pass}
	if err != nil && !errors.As(err, &f) {
		f = &finding{PermError, "the message can not be read"}
	}
	s.Outcome, s.Reason = f.outcome, f.reason
}

// findSignatures reads what is needed to name the signatures. tooMuch: this is
// more than is verified.
func findSignatures(section []byte) (found []Signature, tooMuch bool) {
	count := 0
	for name, field := range fields(section) {
		count++
		if !strings.EqualFold(strings.TrimSpace(name), "DKIM-Signature") {
			continue
		}
		if len(field) > maxSignature {
			tooMuch = true
			field = field[:maxSignature]
		}
		if len(found) < maxSignatures {
			found = append(found, readSignature(value(field)))
		}
	}
	return found, tooMuch || count > maxFields || len(section) > maxSection
}

func readSignature(text string) Signature {
	var s Signature
	for tag := range strings.SplitSeq(text, ";") {
		name, v, _ := strings.Cut(tag, "=")
		v = strings.Join(strings.Fields(v), "")
		switch strings.TrimSpace(name) {
		case "d":
			s.Domain = asciiDomain(v)
		case "s":
			s.Selector = v
		case "b":
			s.Tag = v[:min(len(v), 8)]
		}
	}
	return s
}
