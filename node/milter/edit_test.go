package milter

import (
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
	require.Equal(t, trace+section+"X-B: b\r\n", run(header(wire.ActInsertHeader, 99, "X-B", "b")))
	require.Equal(t, trace+strings.Replace(section, "x-a : 2", "X-A: 3", 1), run(header(wire.ActChangeHeader, 2, "X-A", "3")))
	require.Equal(t, trace+strings.Replace(section, "X-A: 1\r\n", "", 1), run(header(wire.ActChangeHeader, 1, "x-a", "")))
	require.Equal(t, trace+section+"X-C: c\r\n", run(header(wire.ActChangeHeader, 1, "X-C", "c")))
	require.Equal(t, trace+section, run(header(wire.ActChangeHeader, 3, "X-A", "")))
	require.Equal(t, trace+section, run(header(wire.ActAddHeader, 0, "no field\r\n", "x")), "a name that is none")
	require.Equal(t, trace+section+"X-B: a\r\n\tb: c\r\n\t\r\n d\r\n", run(header(wire.ActAddHeader, 0, "X-B", "a\nb: c\r\n\n d\n")), "lines never begin a field")
	require.Equal(t, trace+"X-Quarantine: virus found\r\n"+section, strings.Replace(run(wire.ModifyAction{Code: wire.ActQuarantine, Reason: "virus\nfound"}), "X-Quarantine: virus found\r\n"+trace, trace+"X-Quarantine: virus found\r\n", 1))
	require.ErrorIs(t, (&Verdict{}).take([]wire.ModifyAction{{Code: wire.ActReplBody, Body: make([]byte, 60)}, {Code: wire.ActReplBody, Body: make([]byte, 60)}}, 100), errBody)
	require.ErrorIs(t, (&Verdict{}).take([]wire.ModifyAction{{Code: wire.ActReplBody}}, 0), errBody, "an empty body is another body, too")
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
	for text, ok := range map[string]bool{"inet:127.0.0.1:11332": true, "unix:/run/x": true, "inet:[::1]:1": true, "inet:1": false, "unix:x": false, "127.0.0.1:1": false, "inet:h:0": false} {
		_, _, err := ParseAddress(text)
		require.Equal(t, ok, err == nil, text)
	}
}

func FuzzEdit(f *testing.F) {
	f.Add("X-A", "1\n2", uint32(1), section)
	f.Fuzz(func(t *testing.T, name, value string, at uint32, section string) {
		if strings.HasPrefix(section, " ") || strings.HasPrefix(section, "\t") {
			return // no header section begins so: the relay ends it before such a line
		}
		v := &Verdict{}
		for _, code := range []wire.ModifyActCode{wire.ActAddHeader, wire.ActInsertHeader, wire.ActChangeHeader} {
			require.NoError(t, v.take([]wire.ModifyAction{{Code: code, HeaderIndex: at, HeaderName: name, HeaderValue: value}}, 0))
		}
		before := len(Fields([]byte(section)))
		out := v.Edit(nil, []byte(section))
		after := len(Fields(out))
		require.GreaterOrEqual(t, after, before-1)
		require.LessOrEqual(t, after, before+3)
	})
}
