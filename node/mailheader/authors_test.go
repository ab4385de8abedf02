package mailheader

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuthors(t *testing.T) {
	for header, want := range map[string]string{
		"From: alice@example.test\r\n": "alice@example.test",
		"Subject: x\r\nFROM :\r\n\tAlice\r\n <alice@example.test>\r\nTo: b@c\r\n\r\n": "alice@example.test",
		"From: \"bob@b.test\" <alice@example.test>\r\n":                               "alice@example.test",
		"From: =?iso-8859-15?Q?bob=40b.test?= <alice@example.test>\r\n":               "alice@example.test",
		"From: =?x-unknown?B?YQ==?= <alice@example.test> (bob@b.test)\r\n":            "alice@example.test",
		"From :\t(Alice)\r\n (bob@b.test) alice@example.test\r\n":                     "alice@example.test",
		"From: (alice@example.test)\r\n":                                              "error",
		"From: (alice@example.test bob@b.test\r\n":                                    "error",
		"From: J\xfcrgen <alice@example.test>\r\n":                                    "alice@example.test",
		"From: John Q. Public <alice@example.test>\r\n":                               "alice@example.test",
		"From: Team: alice@example.test,\r\n Bob <bob@b.test>;\r\n":                   "alice@example.test bob@b.test",
		"From: a@example.test, b@example.test\r\n":                                    "a@example.test b@example.test",
		"From: alice@b\u00fccher.example\r\n":                                         "alice@b\u00fccher.example",
		"X: 1\r\n\r\nFrom: bob@b.test\r\n":                                            "absent",
		"X: 1\r\nno field\r\nFrom: bob@b.test\r\n":                                    "absent",
		"Fromage: bob@b.test\r\nX-From: bob@b.test\r\n":                               "absent",
		"": "absent",
		"From: a@example.test\r\nFrom: a@example.test\r\n":       "error",
		"From: a@example.test\r\nfrom\t: b@b.test\r\n":           "error",
		"From: a@example.test\r\nFrom:\r\n":                      "error",
		"From:\r\n":                                              "error",
		"From: undisclosed:;\r\n":                                "error",
		"From: Alice\r\n":                                        "error",
		"From: a@example.test <b@b.test>\r\n":                    "error",
		"From: <a@example.test> <b@b.test>\r\n":                  "error",
		"From: a@example.test b@b.test\r\n":                      "error",
		"From: <@b.test>\r\n":                                    "error",
		"From: a@example.test\rFrom: b@b.test\r\n":               "error",
		"From: a@example.test\r\nSubject: x\rFrom: b@b.test\r\n": "error",
		"From: a@example.test\r\nSubject: x\x00y\r\n":            "error",
		"From: =?utf-8?q?b=40b.test?=\r\n":                       "error",
		"From: a@example.test,,\r\n <b@b.test\r\n":               "error",
	} {
		list, absent, err := Authors([]byte(header))
		got := strings.Join(list, " ")
		switch {
		case absent:
			got = "absent"
		case err != nil:
			require.ErrorIs(t, err, ErrNoAuthor, header)
			got = "error"
		}
		require.Equal(t, want, got, "%q", header)
	}
}

func FuzzFields(f *testing.F) {
	f.Add([]byte("From: a@b\r\nTo:\r\n x\r\n\r\nbody"))
	f.Add([]byte("From : a@b\nTo:\n\tx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for name, value := range Fields(b) {
			n += len(name) + 1 + len(value)
			require.True(t, IsFieldName(name))
		}
		require.LessOrEqual(t, n, len(b))
		_, _, _ = Authors(b)
	})
}
