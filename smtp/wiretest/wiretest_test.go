package wiretest

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// echo greets, then answers every line with "ok N line"; QUIT closes.
func echo(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	_, _ = conn.Write([]byte("hello 42\r\n"))
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "QUIT" {
			return
		}
		if _, err := conn.Write([]byte("ok " + line + "\r\n")); err != nil {
			return
		}
	}
}

func playText(t *testing.T, text string) error {
	t.Helper()
	s, err := Parse("test", strings.NewReader(text))
	require.NoError(t, err)
	p := &Player{
		Dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go echo(there)
			return here, nil
		},
		Vars:  map[string]string{"name": "ann"},
		Calls: map[string]func(string) error{"fail": func(args string) error { return errors.New(args) }},
	}
	return p.Play(t.Context(), s)
}

func TestPlay(t *testing.T) {
	require.NoError(t, playText(t, `
# every mark once
=== set colour blue
S: hello ~(?P<n>\d+)~
C: ${name} has ${n} $$
C: two
S: ok ann has ~${n}~ $
S: ok tw...
C< a\s\x41\*3(bc)\r\n
S: ok a Abcbcbc
C< raw\r\n
S< ok raw\r\n
C: x
C: y
C: z~
S*: ok z~~
=== connect other
S: hello 42
=== use 1
C: QUIT
=== eof
=== use other
=== silent 1ms
=== close
`))
}

func TestMismatch(t *testing.T) {
	err := playText(t, "S: hello 42\nC: one\nS: ok two\n")
	var m *Mismatch
	require.ErrorAs(t, err, &m)
	require.Equal(t, Mismatch{"test", 3, "ok two", "ok one"}, *m)

	err = playText(t, "S: hello 42\nC: QUIT\nS: bye\n")
	require.ErrorAs(t, err, &m)
	require.Equal(t, "end of connection", m.Got)

	err = playText(t, "S: hello 42\n=== call fail because\n")
	require.ErrorContains(t, err, "test:2: because")
	require.ErrorContains(t, playText(t, "C: ${what}"), "unknown variable")
	require.ErrorContains(t, playText(t, "=== eof"), "=== eof")
}

func TestParseErrors(t *testing.T) {
	for _, text := range []string{"X: hm", "C< \\q", "C< \\", "C< \\*9", "C< \\xZZ", "=== jump", "=== set"} {
		_, err := Parse("bad", strings.NewReader(text))
		require.ErrorContains(t, err, "bad:1:", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("C: a\nS: ~b~...\nC< \\*2(x)\n=== set a b")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, `\*`) {
			return // honest repetitions may be large
		}
		s, err := Parse("fuzz", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, st := range s.steps {
			_, _ = compile(st.text, map[string]string{"a": "b"})
		}
	})
}
