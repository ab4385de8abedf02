package smtp

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// dotResult is what a reader makes of what a client sent.
type dotResult struct {
	text   string
	rest   string // behind the end
	end    bool
	bare   bool
	broken bool
}

// slowDots says the same as dotReader, in the words of the RFC: the end is the
// first CRLF.CRLF, a dot behind any other CRLF goes, and then line ends are
// mended.
func slowDots(in string) dotResult {
	in = "\r\n" + in // the CRLF of the DATA command
	text, rest, end := strings.Cut(in, "\r\n.\r\n")
	if !end {
		rest = ""
	} else {
		text += "\r\n"
	}
	text = strings.ReplaceAll(text, "\r\n.", "\r\n")[2:]
	mended, bare := slowMend(text)
	return dotResult{text: mended, rest: rest, end: end, bare: bare}
}

// slowMend makes every line end CRLF, and tells whether that changed anything.
func slowMend(in string) (string, bool) {
	out := strings.ReplaceAll(in, "\r\n", "\x01")
	out = strings.NewReplacer("\r", "\x01", "\n", "\x01").Replace(out)
	out = strings.ReplaceAll(out, "\x01", "\r\n")
	return out, out != in
}

// slowLF is the same for lines that end in LF.
func slowLF(in string) dotResult {
	text, rest, end := strings.Cut("\n"+in, "\n.\n")
	if strings.Contains(text, "\r") {
		return dotResult{broken: true}
	}
	if !end {
		rest = ""
	} else {
		text += "\n"
	}
	text = strings.ReplaceAll(text, "\n.", "\n")[1:]
	return dotResult{text: strings.ReplaceAll(text, "\n", "\r\n"), rest: rest, end: end}
}

// runDots gives the input to the machine in blocks of the given size.
func runDots(d dotReader, in string, size int) dotResult {
	var r dotResult
	rest := []byte(in)
	var block []byte
	idle := 0
	for !r.end && !d.broken && (len(rest) > 0 || len(block) > 0) {
		if len(block) == 0 {
			n := min(size, len(rest))
			block, rest = rest[:n], rest[n:]
		}
		out, used, end := d.next(block)
		r.text += string(out)
		block, r.end = block[used:], end
		if idle++; used > 0 {
			idle = 0
		}
		if idle > 2 {
			panic("no progress")
		}
	}
	if r.end {
		r.rest = string(block) + string(rest)
	}
	r.bare, r.broken = d.bare, d.broken
	if r.broken {
		r.text = ""
	}
	return r
}

// withoutTail forgets what is still held back in a text without an end: the
// machine cannot know yet what a dot or a CR in the last place is.
func withoutTail(r dotResult, in string) dotResult {
	if r.end {
		return r
	}
	if s, ok := strings.CutSuffix(in, "\r"); ok {
		r.text = slowDots(s).text
		if strings.HasSuffix("\r\n"+s, "\r\n.") { // the dot is held, too
			r.text = strings.TrimSuffix(r.text, ".")
		}
		_, r.bare = slowMend(strings.ReplaceAll("\r\n"+s, "\r\n.", "\r\n"))
	}
	return r
}

var dotBlocks = []int{1, 2, 3, 1 << 20}

func checkDots(t *testing.T, in string) {
	t.Helper()
	want, wantLF := withoutTail(slowDots(in), in), slowLF(in)
	for _, size := range dotBlocks {
		if got := runDots(dotReader{}, in, size); got != want {
			t.Fatalf("%q in blocks of %d:\nwant %+v\ngot  %+v", in, size, want, got)
		}
		if got := runDots(dotReader{lf: true}, in, size); got != wantLF && !wantLF.broken || got.broken != wantLF.broken {
			t.Fatalf("LF: %q in blocks of %d:\nwant %+v\ngot  %+v", in, size, wantLF, got)
		}
		raw := dotReader{raw: true}
		text := runRaw(&raw, in, size)
		if mended, bare := slowMend(in); text != mended || raw.bare != bare {
			t.Fatalf("raw: %q in blocks of %d: want %q %v, got %q %v", in, size, mended, bare, text, raw.bare)
		}
	}
}

func runRaw(d *dotReader, in string, size int) string {
	var out []byte
	for rest := []byte(in); len(rest) > 0; {
		block := rest[:min(size, len(rest))]
		rest = rest[len(block):]
		for len(block) > 0 {
			text, used, _ := d.next(block)
			out = append(out, text...)
			block = block[used:]
		}
	}
	return string(append(out, d.flush()...))
}

// everyText calls f for every text of at most n octets of the alphabet.
func everyText(alphabet string, n int, f func(string)) {
	var grow func(prefix []byte)
	grow = func(prefix []byte) {
		f(string(prefix))
		if len(prefix) == n {
			return
		}
		for i := range len(alphabet) {
			grow(append(prefix[:len(prefix):len(prefix)], alphabet[i]))
		}
	}
	grow(nil)
}

func TestDotsExhaustive(t *testing.T) {
	everyText("\r\n.a", 7, func(s string) { checkDots(t, s) })
}

func TestDotsTable(t *testing.T) {
	for _, c := range []struct {
		in   string
		want dotResult
	}{
		{".\r\nNOOP", dotResult{rest: "NOOP", end: true}},
		{"a\r\n.\r\n", dotResult{text: "a\r\n", end: true}},
		{"..\r\n.\r\n", dotResult{text: ".\r\n", end: true}},
		{".a\r\n.\r\n", dotResult{text: "a\r\n", end: true}},
		{"a\n.\nb\r\n.\r\n", dotResult{text: "a\r\n.\r\nb\r\n", end: true, bare: true}},
		{"a\n.\r\nb\r\n.\r\n", dotResult{text: "a\r\n.\r\nb\r\n", end: true, bare: true}},
		{"a\r.\rb\r\n.\r\n", dotResult{text: "a\r\n.\r\nb\r\n", end: true, bare: true}},
		{"a\r\n.\nb\r\n.\r\n", dotResult{text: "a\r\n\r\nb\r\n", end: true, bare: true}},
		{"a\r\n.\rb\r\n.\r\n", dotResult{text: "a\r\n\r\nb\r\n", end: true, bare: true}},
		{"a\r\r\n.\r\n", dotResult{text: "a\r\n\r\n", end: true, bare: true}},
		{"a\r\n.\r\r\n.\r\n", dotResult{text: "a\r\n\r\n\r\n", end: true, bare: true}},
	} {
		for _, size := range dotBlocks {
			require.Equal(t, c.want, runDots(dotReader{}, c.in, size), "%q", c.in)
		}
	}
}

func checkDotWriter(t *testing.T, in string) {
	t.Helper()
	want, _ := slowMend(in)
	if want != "" && !strings.HasSuffix(want, "\r\n") {
		want += "\r\n"
	}
	for _, size := range dotBlocks {
		var w dotWriter
		var wire []byte
		for rest := []byte(in); len(rest) > 0; {
			n := min(size, len(rest))
			wire = w.append(wire, rest[:n])
			rest = rest[n:]
		}
		wire = w.end(wire)
		got := slowDots(string(wire))
		if got != (dotResult{text: want, end: true}) {
			t.Fatalf("%q in blocks of %d became %q, which reads %+v", in, size, wire, got)
		}
	}
}

func TestDotWriterExhaustive(t *testing.T) {
	everyText("\r\n.a", 7, func(s string) { checkDotWriter(t, s) })
}

func FuzzDots(f *testing.F) {
	for _, s := range []string{"", ".\r\n", "a\r\n.\r\nb", "\r\r\n.\n.\r.\r\n", "x\n.\ny\r\n..z\r\n.\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if strings.Contains(in, "\x01") {
			return // the reference's own mark
		}
		checkDots(t, in)
		checkDotWriter(t, in)
	})
}

func BenchmarkDotReader(b *testing.B) {
	text := append(bytes.Repeat([]byte(strings.Repeat("x", 70)+"\r\n"), 57), ".\r\n"...)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var d dotReader
		for in, end := text, false; !end; {
			var used int
			_, used, end = d.next(in)
			in = in[used:]
		}
	}
}

func BenchmarkDotWriter(b *testing.B) {
	text := bytes.Repeat([]byte(strings.Repeat("x", 70)+"\r\n"), 57)
	out := make([]byte, 0, 2*len(text))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var w dotWriter
		_ = w.end(w.append(out[:0], text))
	}
}
