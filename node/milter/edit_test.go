package milter

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	wire "github.com/emersion/go-milter"
	"github.com/stretchr/testify/require"
)

const section = "From: a@far.example\r\nSubject: one\r\n two\r\nX-A: 1\r\nx-a : 2\r\n"

func TestFields(t *testing.T) {
	var got []string
	for _, f := range Fields([]byte(section + "\r\nbody: no\r\n")) {
		got = append(got, string(f))
	}
	require.Equal(t, []string{"From: a@far.example\r\n", "Subject: one\r\n two\r\n", "X-A: 1\r\n", "x-a : 2\r\n"}, got)
	name, value := split([]byte(got[1]), false)
	require.Equal(t, []string{"Subject", "one\n two"}, []string{name, value})
	_, value = split([]byte(got[1]), true)
	require.Equal(t, " one\n two", value)
	require.Empty(t, Fields([]byte("text without end")))
}

func TestEdit(t *testing.T) {
	const trace = "Received: ours\r\n"
	run := func(wishes ...wire.ModifyAction) string {
		v := &Verdict{}
		require.NoError(t, v.take(wishes, 100))
		return string(v.Edit([]byte(trace), []byte(section)))
	}
	header := func(code wire.ModifyActCode, at uint32, name, value string) wire.ModifyAction {
		return wire.ModifyAction{Code: code, HeaderIndex: at, HeaderName: name, HeaderValue: value}
	}
	require.Equal(t, trace+section, run())
	require.Equal(t, trace+section+"X-B: b\r\n", run(header(wire.ActAddHeader, 0, "X-B", "b")))
	require.Equal(t, "X-B: b\r\n"+trace+section, run(header(wire.ActInsertHeader, 0, "X-B", "b")))
	require.Equal(t, trace+"X-B: b\r\n"+section, run(header(wire.ActInsertHeader, 1, "X-B", "b")))
	v := &Verdict{}
	require.NoError(t, v.take([]wire.ModifyAction{header(wire.ActAddHeader, 0, "X-B", "b")}, 0))
	require.Equal(t, "Subject: s\r\nX-B: b\r\n", string(v.Edit(nil, []byte("Subject: s"))), "a line of its own")
	require.Equal(t, trace+section+"X-B: b\r\n", run(header(wire.ActInsertHeader, 99, "X-B", "b")))
	require.Equal(t, trace+strings.Replace(section, "x-a : 2", "X-A: 3", 1),
		run(header(wire.ActChangeHeader, 2, "X-A", "3")))
	require.Equal(t, trace+strings.Replace(section, "X-A: 1\r\n", "", 1), run(header(wire.ActChangeHeader, 1, "x-a", "")))
	require.Equal(t, trace+section+"X-C: c\r\n", run(header(wire.ActChangeHeader, 1, "X-C", "c")))
	require.Equal(t, trace+section, run(header(wire.ActChangeHeader, 3, "X-A", "")))
	require.Equal(t, trace+section, run(header(wire.ActAddHeader, 0, "no field\r\n", "x")), "a name that is none")
	require.Equal(t, trace+section+"X-B: a\r\n\tb: c\r\n\t\r\n d\r\n",
		run(header(wire.ActAddHeader, 0, "X-B", "a\nb: c\r\n\n d\n")), "lines never begin a field")
	require.Equal(t, trace+"X-Quarantine: virus found\r\n"+section,
		strings.Replace(run(wire.ModifyAction{Code: wire.ActQuarantine, Reason: "virus\nfound"}),
			"X-Quarantine: virus found\r\n"+trace, trace+"X-Quarantine: virus found\r\n", 1))
	require.ErrorIs(t,
		(&Verdict{}).take([]wire.ModifyAction{
			{Code: wire.ActReplBody, Body: make([]byte, 60)}, {Code: wire.ActReplBody, Body: make([]byte, 60)},
		}, 100), errBody)
	require.ErrorIs(t, (&Verdict{}).take([]wire.ModifyAction{{Code: wire.ActReplBody}}, 0), errBody,
		"an empty body is another body, too")
}

// plainly edits as the words say, field by field.
func plainly(v *Verdict, trace, section string) string {
	var fields []string
	size := 0
	for _, f := range Fields([]byte(section)) {
		fields = append(fields, string(f))
		size += len(f)
	}
	if n := len(fields); n > 0 && !strings.HasSuffix(fields[n-1], "\n") {
		fields[n-1] += "\r\n"
	}
	top := ""
	for _, e := range v.edits {
		nth := -1
		for i, n := 0, 0; i < len(fields) && nth < 0; i++ {
			name, _, _ := strings.Cut(fields[i], ":")
			if strings.EqualFold(strings.TrimRight(name, " \t"), e.name) {
				if n++; n == e.at {
					nth = i
				}
			}
		}
		switch {
		case e.what == insert && e.at == 0:
			top = string(e.line()) + top
		case e.what == insert:
			fields = slices.Insert(fields, min(e.at-1, len(fields)), string(e.line()))
		case e.what == add || nth < 0 && e.value != "":
			fields = append(fields, string(e.line()))
		case nth < 0:
		case e.value != "":
			fields[nth] = string(e.line())
		default:
			fields = slices.Delete(fields, nth, nth+1)
		}
	}
	return top + trace + strings.Join(fields, "") + section[size:]
}

// The n-th field of a name is counted after everything that was done before: a
// field that was put between others of its name is one of them, in its place.
func TestEditCountsInsertedFields(t *testing.T) {
	const section = "X-A: 1\r\nX-B: 2\r\nX-A: 3\r\n"
	inserted := func(at int) edit { return edit{what: insert, at: at, name: "x-A", value: "new"} }
	changed := func(at int, value string) edit { return edit{what: change, at: at, name: "X-a", value: value} }
	for place := range 6 {
		for nth := range 5 {
			for _, value := range []string{"other", ""} {
				v := &Verdict{edits: []edit{
					changed(1, "first"), inserted(place), changed(nth+1, value), inserted(place + 1), changed(nth+1, value),
				}}
				require.Equal(t, plainly(v, "", section), string(v.Edit(nil, []byte(section))),
					"at %d, then the %d. is %q", place, nth+1, value)
			}
		}
	}
}

// A filter that removes all of very many fields, from either end, and puts
// others in their place.
func TestEditManyFields(t *testing.T) {
	const n = 40_000
	many := strings.Repeat("X-A: 1\r\n", n) + "X-B: 2\r\n"
	for name, at := range map[string]func(i int) uint32{
		"from the last":  func(i int) uint32 { return uint32(n - i) },
		"from the first": func(int) uint32 { return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			v := &Verdict{}
			for i := range n {
				require.NoError(t,
					v.take([]wire.ModifyAction{{Code: wire.ActChangeHeader, HeaderIndex: at(i), HeaderName: "x-a"}}, 0))
			}
			require.NoError(t, v.take([]wire.ModifyAction{
				{Code: wire.ActChangeHeader, HeaderIndex: 1, HeaderName: "X-A", HeaderValue: "new"},
				{Code: wire.ActInsertHeader, HeaderIndex: 2, HeaderName: "X-C", HeaderValue: "between"},
			}, 0))
			require.Equal(t, "X-B: 2\r\nX-C: between\r\nX-A: new\r\n", string(v.Edit(nil, []byte(many))))
		})
	}
}

// The size of edits is bounded; if it is too much nothing is done.
func TestEditsAreBounded(t *testing.T) {
	v := &Verdict{}
	large := wire.ModifyAction{Code: wire.ActAddHeader, HeaderName: "X-A", HeaderValue: strings.Repeat("x", MaxAdded/2)}
	require.NoError(t, v.take([]wire.ModifyAction{large, {Code: wire.ActAddRcpt, Rcpt: "a@example.test"}}, 0))
	require.ErrorIs(t, v.take([]wire.ModifyAction{{Code: wire.ActAddRcpt, Rcpt: "b@example.test"}, large}, 0), errFields)
	require.Equal(t, []string{"a@example.test"}, v.Add)
	require.Less(t, len(v.Edit(nil, []byte(section))), MaxAdded)
}

func TestReplies(t *testing.T) {
	for text, want := range map[string]string{
		"550 5.7.9 Spam\r\nand more": "550 5.7.9 Spam  and more",
		"451 4.2.0 50%% full":        "451 4.2.0 50% full",
		"550 4.2.0 mixed":            "550 5.7.1 4.2.0 mixed",
		"421 4.3.2 bye":              "451 4.3.2 bye",
		"250 2.0.0 yes":              "451 4.7.1 2.0.0 yes",
	} {
		code := int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0')
		require.Equal(t, want, replyOf(code, text[4:]).Error())
	}
	for text, ok := range map[string]bool{
		"inet:127.0.0.1:11332": true, "unix:/run/x": true, "inet:[::1]:1": true, "inet:1": false, "unix:x": false,
		"127.0.0.1:1": false, "inet:h:0": false,
	} {
		_, _, err := ParseAddress(text)
		require.Equal(t, ok, err == nil, text)
	}
}

func FuzzEdit(f *testing.F) {
	f.Add("X-A", "1\n2", uint32(1), section)
	f.Add("X-A", "", uint32(2), section)
	f.Fuzz(func(t *testing.T, name, value string, at uint32, section string) {
		if strings.HasPrefix(section, " ") || strings.HasPrefix(section, "\t") {
			return // no header section begins so: the relay ends it before such a line
		}
		v := &Verdict{}
		section = string(bytes.Join(Fields([]byte(section)), nil))
		if len(value) > 1000 {
			return
		}
		for _, code := range []wire.ModifyActCode{wire.ActAddHeader, wire.ActInsertHeader, wire.ActChangeHeader} {
			require.NoError(t,
				v.take([]wire.ModifyAction{{Code: code, HeaderIndex: at, HeaderName: name, HeaderValue: value}}, 0))
		}
		for _, code := range []wire.ModifyActCode{wire.ActChangeHeader, wire.ActInsertHeader, wire.ActChangeHeader} {
			for _, value := range []string{"", value} {
				require.NoError(t,
					v.take([]wire.ModifyAction{{Code: code, HeaderIndex: at/2 + 1, HeaderName: name, HeaderValue: value}}, 0))
			}
		}
		require.Equal(t, plainly(v, "Received: ours\r\n", section),
			string(v.Edit([]byte("Received: ours\r\n"), []byte(section))))
		v.edits = v.edits[:min(3, len(v.edits))]
		before := len(Fields([]byte(section)))
		out := v.Edit(nil, []byte(section))
		after := len(Fields(out))
		require.GreaterOrEqual(t, after, before-1)
		require.LessOrEqual(t, after, before+3)
	})
}
