package verify

import (
	"bytes"
	"crypto"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// A body is hashed once for each canonicalization, however many signatures there
// are, and is not held, whatever it consists of. Empty lines used to cost the
// square of their number.
func TestEmptyLinesAreCheap(t *testing.T) {
	w := newWorld(t, "")
	message := "From: a@example.org\r\nSubject: s\r\n\r\ntext\r\n"
	for i := range maxSignatures {
		domain := fmt.Sprintf("d%d.example", i)
		message = sign(t, domain, message)
		w.zone["sel._domainkey."+domain] = []dns.RR{&dns.TXT{Txt: []string{keyRecord()}}}
	}
	head, body, _ := strings.Cut(message, "\r\n\r\n")
	v := &Verifier{Resolver: w, Timeout: 5 * time.Second, Slots: make(chan struct{}, 1)}
	check := v.Begin(t.Context(), Client{})
	defer check.Close()
	check.Header([]byte(head + "\r\n"))
	_, _ = check.Write([]byte(body))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := processor()
	lines := bytes.Repeat([]byte("\r\n"), 16<<10)
	for range 1000 { // 32 MB
		_, _ = check.Write(lines)
	}
	r := check.End(t.Context())
	runtime.ReadMemStats(&after)
	for _, s := range r.DKIM {
		require.Equal(t, Pass, s.Outcome, s.Reason)
	}
	require.Less(t, processor()-began, 3*time.Second)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

// A message that the library signs is verified here, in all forms, cut anywhere.
func TestAllCanonicalizations(t *testing.T) {
	w := newWorld(t, "")
	rsaKey, err := rsa.GenerateKey(crand.Reader, 1024)
	require.NoError(t, err)
	v := &Verifier{Resolver: w, Timeout: 5 * time.Second}
	random := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", " ", "\t", "\r\n", "\r\n\r\n", "text", " \r\n", "x;y=z", "  "}
	forms := []dkim.Canonicalization{dkim.CanonicalizationSimple, dkim.CanonicalizationRelaxed}
	for i := range 200 {
		var body strings.Builder
		for range random.IntN(12) {
			body.WriteString(words[random.IntN(len(words))])
		}
		text := body.String()
		if text != "" && !strings.HasSuffix(text, "\r\n") {
			text += "\r\n"
		}
		message := "From: a@example.org\r\nSUBJECT :  two\r\n\twords  \r\nX: 1\r\nX: 2\r\n\r\n" + text
		var signed bytes.Buffer
		signer, record := crypto.Signer(key()), keyRecord()
		if i%8 < 4 {
			signer, record = rsaKey, "p="+base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))
		}
		w.zone["sel._domainkey.example.org"] = []dns.RR{&dns.TXT{Txt: []string{record}}}
		err := dkim.Sign(&signed, strings.NewReader(message), &dkim.SignOptions{
			Domain: "example.org", Selector: "sel", Signer: signer,
			HeaderKeys:             []string{"From", "Subject", "X", "X", "X", "Date"},
			HeaderCanonicalization: forms[i%2], BodyCanonicalization: forms[i/2%2],
		})
		require.NoError(t, err)
		head, rest, _ := strings.Cut(signed.String(), "\r\n\r\n")
		verify := func(head, body string) Outcome {
			check := v.Begin(t.Context(), Client{})
			defer check.Close()
			check.Header([]byte(head + "\r\n"))
			cut := random.IntN(len(body) + 1)
			_, _ = check.Write([]byte(body[:cut]))
			_, _ = check.Write([]byte(body[cut:]))
			return check.End(t.Context()).DKIM[0].Outcome
		}
		require.Equal(t, Pass, verify(head, rest), "%q", text)
		require.Equal(t, Pass, verify(head, rest+"\r\n\r\n"), "%q", text)
		require.Equal(t, Fail, verify(head, rest+"x"), "%q", text)
		require.Equal(t, Fail, verify(strings.Replace(head, ":  two", ":  three", 1), rest), "%q", text)
		require.Equal(t, Fail, verify(strings.Replace(head, "X: 1", "X: 3", 1), rest), "%q", text)
	}
}

// Work on signatures has its turns: so much at once and no more.
func TestWorkHasTurns(t *testing.T) {
	v := &Verifier{Slots: make(chan struct{}, 2)}
	var now, done atomic.Int64
	var over atomic.Bool
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			v.work(t.Context(), func() {
				if now.Add(1) > 2 {
					over.Store(true)
				}
				done.Add(1)
				runtime.Gosched()
				now.Add(-1)
			})
		})
	}
	all.Wait()
	require.EqualValues(t, 20, done.Load())
	require.False(t, over.Load())
}

// processor is the processor time of this process so far: unlike the clock's it does not
// grow while others use the machine.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
