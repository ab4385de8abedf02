package mtasts

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	const good = "version: STSv1\nmode: enforce\nmax_age: 604800\nmx: MX1.x.example\nmx: *.y.example.\n"
	p, err := Parse(good)
	require.NoError(t, err)
	want := &Policy{Mode: Enforce, MaxAge: 7 * 24 * time.Hour, MX: []string{"mx1.x.example", "*.y.example"}}
	require.Equal(t, want, p)
	again, err := Parse(p.Text())
	require.NoError(t, err)
	require.Equal(t, want, again)
	for name, c := range map[string]struct {
		text, want string // an error; empty: none
	}{
		"CRLF, blanks":   {strings.ReplaceAll(strings.ReplaceAll(good, ": ", ":\t "), "\n", "\r\n"), ""},
		"unknown keys":   {good + "new_key: a b: c\n", ""},
		"the first mode": {good + "mode: none\n", ""},
		"a long life":    {strings.Replace(good, "604800", "4294967295", 1), ""},
		"none at all":    {"version: STSv1\nmode: none\nmax_age: 60", ""},
		"empty":          {"", "lacks version"},
		"no version":     {strings.Replace(good, "version", "Version", 1), "lacks version"},
		"another one":    {strings.Replace(good, "STSv1", "STSv2", 1), "version other than STSv1"},
		"no mode":        {strings.Replace(good, "mode: enforce\n", "", 1), "lacks version, mode or max_age"},
		"a wrong mode":   {strings.Replace(good, "enforce", "report", 1), "none of enforce, testing and none"},
		"no age":         {strings.Replace(good, "604800", "-1", 1), "not a number of seconds"},
		"a huge age":     {strings.Replace(good, "604800", "99999999999", 1), "not a number of seconds"},
		"no host":        {"version: STSv1\nmode: testing\nmax_age: 60\n", "names no mail host"},
		"a page":         {"<html>\n", "no key and value"},
		"a star":         {good + "mx: *\n", "no name of a mail host"},
		"a star inside":  {good + "mx: a.*.b\n", "no name of a mail host"},
		"empty labels":   {good + "mx: a..b\n", "no name of a mail host"},
		"too many":       {good + strings.Repeat("mx: a.b\n", 100), "more than 100 patterns"},
		"too long":       {good + strings.Repeat("mx: "+strings.Repeat("a.b", 30)+"\n", 60), "longer than"},
	} {
		p, err := Parse(c.text)
		if c.want == "" {
			require.NoError(t, err, name)
			require.LessOrEqual(t, p.MaxAge, maxAge)
		} else {
			require.ErrorContains(t, err, c.want, name)
		}
	}
	for host, want := range map[string]bool{"mx1.x.example": true, "MX1.X.example": true, "mx2.x.example": false,
		"a.y.example": true, "y.example": false, "a.b.y.example": false, "": false, ".y.example": true} {
		require.Equal(t, want, p.Covers(host), host)
	}
}

func TestRecordID(t *testing.T) {
	for name, c := range map[string]struct {
		records []string
		want    string // empty: no policy
	}{
		"plain":             {[]string{"v=STSv1; id=20260101T00;"}, "20260101T00"},
		"no last mark":      {[]string{"v=STSv1;id=1"}, "1"},
		"extensions":        {[]string{"v=STSv1; a=b; id=1; c=d"}, "1"},
		"others beside":     {[]string{"v=spf1 -all", "v=STSv1; id=1"}, "1"},
		"two":               {[]string{"v=STSv1; id=1", "v=STSv1; id=2"}, ""},
		"none":              {nil, ""},
		"no id":             {[]string{"v=STSv1;"}, ""},
		"an id of marks":    {[]string{"v=STSv1; id=a-b"}, ""},
		"a long id":         {[]string{"v=STSv1; id=" + strings.Repeat("1", 33)}, ""},
		"another version":   {[]string{"v=STSv10; id=1"}, ""},
		"version not first": {[]string{"id=1; v=STSv1"}, ""},
	} {
		id, ok := RecordID(c.records)
		require.Equal(t, c.want != "", ok, name)
		if ok {
			require.Equal(t, c.want, id, name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("version: STSv1\nmode: enforce\nmax_age: 604800\nmx: MX1.x.example\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(p.Text())
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
