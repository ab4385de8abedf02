package wiretest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Script is a parsed transcript. It never changes and may be played by several
// goroutines at once.
type Script struct {
	// Name is the file's base name without its extension.
	Name string
	// Options are the values of the "=== set" directives, by name.
	Options map[string]string

	steps []step
}

type kind uint8

const (
	send   kind = iota // C: C<
	expect             // S:
	skip               // S*:
	octets             // S<
	direct             // ===
)

type step struct {
	line int // in the file, from 1
	kind kind
	text string // for send and octets: with escapes resolved
	verb string // of a directive
}

// Load parses the transcript in a file.
func Load(path string) (*Script, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	base := filepath.Base(path)
	return Parse(strings.TrimSuffix(base, filepath.Ext(base)), f)
}

// Parse reads a transcript. An error names the line that is not understood.
func Parse(name string, r io.Reader) (*Script, error) {
	s := &Script{Name: name, Options: map[string]string{}}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		if err := s.add(n, in.Text()); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	return s, in.Err()
}

var marks = []struct {
	mark string
	kind kind
	raw  bool
}{
	{"C:", send, false}, {"C<", send, true},
	{"S:", expect, false}, {"S*:", skip, false}, {"S<", octets, true},
	{"===", direct, false},
}

func (s *Script) add(n int, line string) error {
	line = strings.TrimSuffix(line, "\r")
	if line == "" || line[0] == '#' {
		return nil
	}
	for _, m := range marks {
		rest, ok := strings.CutPrefix(line, m.mark)
		if !ok {
			continue
		}
		rest = strings.TrimPrefix(rest, " ")
		st := step{line: n, kind: m.kind, text: rest}
		switch {
		case m.raw:
			text, err := unescape(rest)
			if err != nil {
				return err
			}
			st.text = text
		case m.kind == send:
			st.text = rest + "\r\n"
		case m.kind == direct:
			return s.addDirective(st)
		}
		s.steps = append(s.steps, st)
		return nil
	}
	return fmt.Errorf("no mark (C: C< S: S*: S< ===) at the beginning of %q", line)
}

func (s *Script) addDirective(st step) error {
	st.verb, st.text, _ = strings.Cut(strings.TrimSpace(st.text), " ")
	st.text = strings.TrimSpace(st.text)
	switch st.verb {
	case "set":
		key, value, _ := strings.Cut(st.text, " ")
		if key == "" {
			return fmt.Errorf("set needs a name")
		}
		s.Options[key] = strings.TrimSpace(value)
		return nil
	case "connect", "use", "starttls", "badtls", "eof", "close", "shut", "silent", "call", "end":
		s.steps = append(s.steps, st)
		return nil
	}
	return fmt.Errorf("unknown directive %q", st.verb)
}

// unescape resolves the escapes of raw lines.
func unescape(in string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out.WriteByte(in[i])
			continue
		}
		i++
		if i == len(in) {
			return "", fmt.Errorf("a backslash at the end of %q", in)
		}
		used, err := escape(&out, in[i:])
		if err != nil {
			return "", err
		}
		i += used - 1
	}
	return out.String(), nil
}

// escape resolves the one escape that in begins with, after its backslash, and
// says how many octets it took.
func escape(out *strings.Builder, in string) (int, error) {
	const from, to = `rnt0\s`, "\r\n\t\x00\\ "
	if i := strings.IndexByte(from, in[0]); i >= 0 {
		out.WriteByte(to[i])
		return 1, nil
	}
	switch in[0] {
	case 'x':
		if len(in) < 3 {
			break
		}
		b, err := strconv.ParseUint(in[1:3], 16, 8)
		if err != nil {
			break
		}
		out.WriteByte(byte(b))
		return 3, nil
	case '*':
		count, rest, ok := strings.Cut(in[1:], "(")
		n, err := strconv.Atoi(count)
		text, _, closed := strings.Cut(rest, ")")
		if !ok || err != nil || !closed || n < 0 || n > 1<<26 {
			break
		}
		inner, err := unescape(text)
		if err != nil {
			return 0, err
		}
		out.WriteString(strings.Repeat(inner, n))
		return 1 + len(count) + 1 + len(text) + 1, nil
	}
	return 0, fmt.Errorf("unknown escape \\%.8s", in)
}
