package bounce

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ownText = `# of our house
[failure]
Subject: {host}: nicht zugestellt

Grüße von {host}. {{sic}} Deine Nachricht vom {date} an {count} Empfänger ging nicht.
{recipients}

Kennzeichen {id}, an {sender}.

[delay]
Noch bis {until}:
  {recipients}
`

func templated(t *testing.T, kind Kind, text string) *Report {
	t.Helper()
	made, err := ParseTemplate(text)
	require.NoError(t, err)
	at := time.Unix(1_700_000_000, 0).UTC()
	return &Report{
		Kind: kind, Hostname: "mx.example.test", ID: "01ABC", To: "s@example.net", Arrived: at, Now: at, Template: made,
		Recipients: []Recipient{{Address: "a@far.example", Action: Failed, Reply: "550 5.1.1 no\r\nX-Evil: yes"}},
	}
}

// TestTemplateFillsTheTextForPeople and leaves what programs read as it is.
func TestTemplateFillsTheTextForPeople(t *testing.T) {
	body, utf8 := Write(templated(t, Failure, ownText))
	require.False(t, utf8, "its header is ASCII")
	check(t, body, false)
	text := string(body)
	require.Contains(t, text, "Subject: mx.example.test: nicht zugestellt\r\n")
	require.Contains(t, text, "Content-Transfer-Encoding: 8bit\r\n\r\nThis is a MIME")
	require.Contains(t, text, "\r\nGrüße von mx.example.test. {sic}} Deine Nachricht vom Tue, 14 Nov 2023 22:13:20 +0000")
	require.Contains(t, text, "<a@far.example>: host the next hop said: 550 5.1.1 no")
	require.Contains(t, text, "Kennzeichen 01ABC, an s@example.net.\r\n")
	require.Contains(t, text, "Status: 5.1.1\r\n")
	require.NotContains(t, text, "\r\nX-Evil")
	require.NotContains(t, text, "of our house")

	text = string(first(Write(templated(t, Success, ownText))))
	require.Contains(t, text, "This is the report that you asked for.", "there is no section of its own")
	text = string(first(Write(templated(t, Delay, ownText))))
	require.Contains(t, text, "Subject: Delayed mail (still being tried)\r\n")
	require.Contains(t, text, "Noch bis (not known):\r\n\r\n<a@far.example>")
}

func first(b []byte, _ bool) []byte { return b }

// TestTemplateSubjectIsEncoded: other characters, and what is filled in, end no header line.
func TestTemplateSubjectIsEncoded(t *testing.T) {
	r := templated(t, Failure, "[failure]\nSubject: Grüße {id}\n\n{recipients}\n")
	r.ID = "01\r\nX-Evil: 1"
	text := string(first(Write(r)))
	require.Contains(t, text, "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_01X-Evil1?=\r\n")
	require.NotContains(t, text, "\r\nX-Evil")
}

// TestTemplateLinesStaySendable: what is filled in makes no line that SMTP does not take.
func TestTemplateLinesStaySendable(t *testing.T) {
	r := templated(t, Failure, "[failure]\n"+strings.Repeat("{sender} ", 50)+"\n{recipients}\n")
	r.To = strings.Repeat("s", 60) + "@" + strings.Repeat("d", 180) + ".example"
	check(t, first(Write(r)), false)
}

func TestBadTemplatesNameTheLine(t *testing.T) {
	for _, c := range [][2]string{
		{"hello", "line 1: a section comes first"},
		{"# only this", "line 1: there is no section"},
		{"[failure]\nno list\n", "line 1: section [failure] has no line {recipients}"},
		{"[failure]\n{recipients}\n{recipients}", "line 3: {recipients} stands in the section twice"},
		{"[failure]\nto {recipients} all", "line 2: {recipients} needs a line of its own"},
		{"[failure]\n{recipients}\n[failure]\n", "line 3: section [failure] is there twice"},
		{"[failure]\n{recipients}\n[bounce]\n", "line 3: there is no section [bounce]"},
		{"[delay]\nx\n[failure]\n", "line 3: before it: section [delay] has no line {recipients}"},
		{"[failure]\n{recipients}\n{password}\n", "line 3: {password} is not known"},
		{"[failure]\n{recipients}\nopen {id\n", "line 3: {id is not known"},
		{"[failure]\nSubject: {sender}\n{recipients}", "line 2: {sender} is not known: there are {host}, {id} here"},
		{"[failure]\nSubject:  \n{recipients}", "line 2: the subject is empty"},
		{"[failure]\nSubject: a\x00b\n{recipients}", "line 2: it has the control character U+0000"},
		{"[failure]\nSubject: a\rBcc: x\n{recipients}", "line 2: it has the control character U+000D"},
		{"[failure]\n{recipients}\n\u202eevil", "line 3: it has the control character U+202E"},
		{"[failure]\n{recipients}\n\xff", "line 3: it is not UTF-8"},
		{"[failure]\n{recipients}\n" + strings.Repeat("x", 501), "line 3: it has 501 octets"},
		{"[failure]\nSubject: " + strings.Repeat("x", 201) + "\n{recipients}", "line 2: the subject has 201 octets"},
		{"[failure]\n{recipients}\n" + strings.Repeat("x\n", MaxTemplate), "at most 16384"},
	} {
		_, err := ParseTemplate(c[0])
		require.ErrorContains(t, err, c[1], c[0])
	}
	none, err := ParseTemplate(" \r\n")
	require.NoError(t, err)
	require.Nil(t, none)
	_, err = ParseTemplate(strings.ReplaceAll("\ufeff"+ownText, "\n", "\r\n"))
	require.NoError(t, err)
}

// FuzzTemplate: a template that is taken makes notices that are well-formed.
func FuzzTemplate(f *testing.F) {
	f.Add(ownText)
	f.Add("[success]\n{{{recipients}\n{recipients}")
	f.Fuzz(func(t *testing.T, text string) {
		made, err := ParseTemplate(text)
		if err != nil || made == nil {
			return
		}
		for kind := Failure; kind <= Success; kind++ {
			r := templated(t, kind, "")
			r.Template = made
			check(t, first(Write(r)), false)
		}
	})
}
