package verify

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"

	"github.com/emersion/go-msgauth/dkim"
)

// Bounds on what is verified: how the library works, time grows with the
// square of some of these, and all of them are a stranger's choice.
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
	limited  bool   // l=: it does not cover the whole body
}

// dkimCheck verifies the signatures of one message while its body goes by.
type dkimCheck struct {
	signatures []Signature // of those that are verified
	pipe       *io.PipeWriter
	cut        atomic.Bool // the body was given up before its end
	ended      bool
	checks     []*dkim.Verification // written before running ends
	err        error
}

// beginDKIM returns nil where there is nothing to verify. The library wants to
// read the message, so it has a goroutine of its own, which ends with the body.
func (v *Verifier) beginDKIM(c *Check, section []byte) *dkimCheck {
	found, tooMuch := findSignatures(section)
	if len(found) == 0 {
		return nil
	}
	d := &dkimCheck{signatures: found}
	if tooMuch {
		for i := range found {
			found[i].Outcome, found[i].Reason = Neutral, "more header than is verified"
		}
		return d
	}
	r, w := io.Pipe()
	d.pipe = w
	top := append(bytes.Clone(section), '\r', '\n')
	if len(section) > 0 && section[len(section)-1] != '\n' {
		top = append(top, '\r', '\n')
	}
	// The library leaves goroutines behind where its reader fails; this one
	// only ends, and what has been cut short does not count.
	stop := context.AfterFunc(c.ctx, d.giveUp)
	c.running.Go(func() {
		defer stop()
		in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(top), r), 32<<10)
		d.checks, d.err = dkim.VerifyWithOptions(in, &dkim.VerifyOptions{
			MaxVerifications: maxSignatures,
			LookupTXT: func(name string) ([]string, error) {
				ctx, cancel := context.WithTimeout(c.ctx, v.Timeout)
				defer cancel()
				all, err := v.Resolver.TXT(ctx, name)
				if err != nil {
					return nil, dnsError(name, err)
				}
				return all, boundKeys(all) // any error but one of DNS is for good
			},
		})
		_, _ = io.Copy(io.Discard, r) // who writes must never wait for nobody
	})
	return d
}

// giveUp ends the body where it is.
func (d *dkimCheck) giveUp() {
	d.cut.Store(true)
	_ = d.pipe.CloseWithError(io.EOF)
}

func (d *dkimCheck) write(p []byte) {
	if d.pipe == nil || d.ended {
		return
	}
	if _, err := d.pipe.Write(p); err != nil {
		d.cut.Store(true)
	}
}

func (d *dkimCheck) end() {
	if d.pipe != nil && !d.ended {
		d.ended = true
		_ = d.pipe.Close()
	}
}

// results maps what the library says to the words of RFC 8601 §2.7.1. The
// goroutine must have ended.
func (d *dkimCheck) results() []Signature {
	// After a fault of its own the library may have left out what went wrong.
	fault := d.err != nil && !errors.Is(d.err, dkim.ErrTooManySignatures)
	for i := range d.signatures {
		s := &d.signatures[i]
		switch {
		case s.Outcome != "":
		case fault || i >= len(d.checks):
			s.Outcome, s.Reason = PermError, "the message can not be read"
		default:
			s.judge(d.checks[i].Err, d.cut.Load())
		}
	}
	return d.signatures
}

func (s *Signature) judge(err error, cut bool) {
	switch {
	case err == nil:
		s.Outcome = Pass
		return
	case dkim.IsPermFail(err):
		s.Outcome = PermError
	case dkim.IsTempFail(err):
		s.Outcome = TempError
	case cut:
		s.Outcome, s.Reason = TempError, "not finished in time"
		return
	case s.limited:
		s.Outcome = Policy
	default:
		s.Outcome = Fail
	}
	s.Reason = strings.TrimPrefix(err.Error(), "dkim: ")
	if dkim.IsTempFail(err) {
		s.Reason = "key unavailable" // not what our name servers said
	} else if strings.HasPrefix(s.Reason, "no key for signature") {
		s.Reason = "no key for signature"
	}
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
		case "l":
			s.limited = true
		}
	}
	return s
}
