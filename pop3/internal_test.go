package pop3

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// slowStuff is the reference: octet by octet.
func slowStuff(body []byte) []byte {
	var out []byte
	bol := true
	for _, b := range body {
		if bol && b == '.' {
			out = append(out, '.')
		}
		out = append(out, b)
		bol = b == '\n'
	}
	if len(body) > 0 && !bytes.HasSuffix(body, []byte("\r\n")) {
		out = append(out, "\r\n"...)
	}
	return append(out, ".\r\n"...)
}

// slowTop is the reference for TOP: the header, the empty line, lines of body.
func slowTop(body []byte, lines int) []byte {
	var out []byte
	inBody := false
	for _, line := range bytes.SplitAfter(body, []byte("\n")) {
		if inBody && lines == 0 {
			break
		}
		out = append(out, line...)
		if inBody {
			lines--
		} else if s := string(line); s == "\r\n" || s == "\n" {
			inBody = true
		}
	}
	return out
}

type buffer struct{ bytes.Buffer }

func (b *buffer) put(p []byte) error {
	b.Write(p)
	return nil
}

func stuffInPieces(t testing.TB, body []byte, piece int, cut *topper) string {
	var out buffer
	var s stuffer
	s.reset(&out, cut)
	for p := body; len(p) > 0; {
		n := min(piece, len(p))
		k, err := s.Write(p[:n])
		if err == errEnough {
			break
		}
		require.NoError(t, err)
		require.Equal(t, n, k)
		p = p[n:]
	}
	require.NoError(t, s.finish())
	return out.String()
}

var bodies = []string{
	"", ".", "..", "\r\n", ".\r\n", "a", "a\r", "a\n", "a\n.b\n", "\n.\n.\n", "\r\n.\r\n.\r\n",
	"Subject: x\r\n\r\nbody\r\n.\r\n..\r\n.end", "Subject: x\r\n\r\n", "Subject: x\r\n", "\r\nno header\r\n",
	"\n\n\n", "a: b\n\nc\nd\n", "x\r\n\r\r\ny\r\n", strings.Repeat(".\r\n", 100),
	"a\r\n\r\n" + strings.Repeat("line\r\n", 50),
}

func TestStuffing(t *testing.T) {
	for _, body := range bodies {
		for piece := 1; piece <= len(body)+1; piece++ {
			require.Equal(t, string(slowStuff([]byte(body))), stuffInPieces(t, []byte(body), piece, nil),
				"%q by %d", body, piece)
		}
	}
}

func TestTopping(t *testing.T) {
	for _, body := range bodies {
		for piece := 1; piece <= len(body)+1; piece++ {
			for _, lines := range []int{0, 1, 2, 49, 50, 1000} {
				want := string(slowStuff(slowTop([]byte(body), lines)))
				require.Equal(t, want, stuffInPieces(t, []byte(body), piece, &topper{left: lines}),
					"%q by %d, %d lines", body, piece, lines)
			}
		}
	}
}

// testConn is a connection whose output goes nowhere but into its block.
func testConn(t testing.TB) *conn {
	srv, err := NewServer(ServerConfig{Backend: nobody{}})
	require.NoError(t, err)
	return &conn{srv: srv}
}

func FuzzStuffing(f *testing.F) {
	for i, b := range bodies {
		f.Add([]byte(b), i+1, i-1)
	}
	f.Fuzz(func(t *testing.T, body []byte, piece, lines int) {
		piece = max(1, piece%1024)
		want := string(slowStuff(body))
		require.Equal(t, want, stuffInPieces(t, body, piece, nil))
		if lines >= 0 {
			top := string(slowStuff(slowTop(body, lines)))
			require.Equal(t, top, stuffInPieces(t, body, piece, &topper{left: lines}))
		}
		if len(body) > blockSize/2 {
			return // more would have to be flushed
		}
		readers := map[string]io.Reader{
			"writer": bytes.NewReader(body),
			"plain":  struct{ io.Reader }{bytes.NewReader(body)},
			"short":  iotest.HalfReader(struct{ io.Reader }{bytes.NewReader(body)}),
			"eof":    iotest.DataErrReader(struct{ io.Reader }{bytes.NewReader(body)}),
		}
		for name, r := range readers {
			c := testConn(t)
			c.stuff.reset(c, nil)
			require.NoError(t, c.stuff.copyFrom(c, r))
			require.NoError(t, c.stuff.finish())
			require.Equal(t, want, string(c.out), name)
			require.Equal(t, int64(len(body)), c.stuff.count)
		}
	})
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"USER alice", "PASS a b ", "RETR 1", "RETR UID:x", "TOP UID:a 5", "TOP 1 99999999999999999999", "", " ", "\t",
		"retr\t1", "RETR \x00", "LIST UID:", "DELE uid:UID:x", "UIDL UID:\u00fc", "AUTH PLAIN =",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		word, arg, raw, ok := parseCommand(line)
		if !ok {
			require.Zero(t, word)
			return
		}
		require.Contains(t, string(raw), string(arg))
		require.NotContains(t, string(raw), "\x00")
		for _, param := range []bool{true, false} {
			checkReference(t, arg, parseReference(arg, param), param)
			if ref, lines, ok := parseTop(arg, param); ok {
				require.GreaterOrEqual(t, lines, 0)
				checkReference(t, arg, ref, param)
			}
		}
	})
}

func checkReference(t *testing.T, arg []byte, r reference, param bool) {
	switch r.kind {
	case refNumber:
		require.GreaterOrEqual(t, r.n, 0)
	case refUID:
		require.True(t, param)
		require.NotEmpty(t, r.uid)
		require.LessOrEqual(t, len(r.uid), 70)
		require.Contains(t, string(arg), string(r.uid))
	case refBadUID:
		require.True(t, param)
	}
}

func TestReferences(t *testing.T) {
	for in, want := range map[string]reference{
		"1":                    {kind: refNumber, n: 1},
		"007":                  {kind: refNumber, n: 7},
		"9223372036854775808":  {kind: refNumber, n: math.MaxInt},
		"99999999999999999999": {kind: refNumber, n: math.MaxInt},
		"UID:1":                {kind: refUID, uid: []byte("1")},
		"uId:UID:x":            {kind: refUID, uid: []byte("UID:x")},
		"UID:":                 {kind: refBadUID},
		"UID:a b":              {kind: refBadUID},
		"":                     {}, "-1": {}, "+1": {}, "1x": {}, "UID": {}, "UID-1": {}, "x": {},
	} {
		require.Equal(t, want, parseReference([]byte(in), true), in)
	}
	require.Equal(t, reference{}, parseReference([]byte("UID:1"), false))
}

func TestTexts(t *testing.T) {
	for id := text(0); id < numTexts; id++ {
		for l := lang(0); l < numLangs; l++ {
			words := texts[id][l]
			require.NotEmpty(t, words, "text %d in %s", id, langs[l].tag)
			for _, mark := range []string{"%1", "%2", "%s"} {
				require.Equal(t, strings.Count(texts[id][english], mark), strings.Count(words, mark), words)
			}
			line := appendText(nil, id, l, strings.Repeat("x", 64), math.MaxInt64, math.MaxInt64)
			require.Less(t, len(line), 480, "RFC 2449 allows 512 octets with status and code")
			require.NotContains(t, string(line), "%")
		}
	}
}

type uidList []string

func (l uidList) Len() int                         { return len(l) }
func (l uidList) Size(int) int64                   { return 1 }
func (l uidList) AppendUID(b []byte, i int) []byte { return append(b, l[i]...) }

func makeUIDs(from, to int) (l uidList) {
	for i := from; i < to; i++ {
		l = append(l, fmt.Sprintf("uid-%d", i))
	}
	return l
}

func TestIndex(t *testing.T) {
	for _, n := range []int{0, 1, walkable, walkable + 1, 1000} {
		list := makeUIDs(0, n)
		x := index{list: list}
		for i := n - 1; i >= 0; i-- { // against the grain
			require.Equal(t, i, x.find([]byte(list[i])))
		}
		for i := range n {
			require.Equal(t, i, x.find([]byte(list[i])))
		}
		require.Equal(t, -1, x.find([]byte("uid-")))
		require.Equal(t, -1, x.find([]byte(fmt.Sprint("uid-", n))))
	}
}

func TestArrived(t *testing.T) {
	require.False(t, arrived(makeUIDs(0, 0), makeUIDs(0, 0)))
	require.True(t, arrived(makeUIDs(0, 0), makeUIDs(0, 1)))
	require.False(t, arrived(makeUIDs(0, 100), makeUIDs(0, 0)))
	require.False(t, arrived(makeUIDs(0, 100), makeUIDs(20, 100)))
	require.True(t, arrived(makeUIDs(0, 100), makeUIDs(20, 101)))
}

func TestPOP2Words(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "a": {"a"}, " a  b ": {"a", "b"}, `a\ b c`: {"a b", "c"}, `a\\b`: {`a\b`}, `\ `: {" "},
	} {
		got, ok := pop2Words(in)
		require.True(t, ok, in)
		require.Equal(t, want, got, in)
	}
	_, ok := pop2Words(`a\`)
	require.False(t, ok)
}

func TestLangTags(t *testing.T) {
	for tag, want := range map[string]lang{
		"de": german, "DE-at-1996": german, "zh-Hans": chinese, "*": english, "fr": french,
	} {
		got, ok := findLang(tag)
		require.True(t, ok, tag)
		require.Equal(t, want, got, tag)
	}
	for _, tag := range []string{"", "deu", "MUL", "-de", "x-de"} {
		_, ok := findLang(tag)
		require.False(t, ok, tag)
	}
}

// TestPOP2AnswersBeforeItIsCut: the answer to QUIT goes out although the server stops
// at that moment; the deletions are done.
func TestPOP2AnswersBeforeItIsCut(t *testing.T) {
	here, there := net.Pipe()
	p := &pop2{conn: &conn{raw: here, nc: here, out: []byte("+ bye\r\n"), closing: true, dead: &reason{text: tStopping}}}
	go func() {
		p.hangUp(nil)
		_ = here.Close()
	}()
	said, err := io.ReadAll(there)
	require.NoError(t, err)
	require.Equal(t, "+ bye\r\n", string(said))
}
