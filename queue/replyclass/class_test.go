package replyclass

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// corpus reads testdata/replies.txt: texts of real hosts, with names and addresses changed, and the relay's own, each
// behind its class.
func corpus(t testing.TB) map[string][]string {
	text, err := os.ReadFile("testdata/replies.txt")
	require.NoError(t, err)
	all := map[string][]string{}
	for row := range strings.Lines(string(text)) {
		name, reply, _ := strings.Cut(strings.TrimSpace(row), " ")
		if reply = strings.TrimLeft(reply, " "); reply != "" {
			all[name] = append(all[name], reply)
		}
	}
	return all
}

func TestReplies(t *testing.T) {
	all := corpus(t)
	for name, texts := range all {
		for _, text := range texts {
			require.Equal(t, name, cmp.Or(Of(text).String(), "none"), "%q", text)
		}
	}
	require.Len(t, all, Classes)
	for c := None + 1; c < count; c++ {
		require.GreaterOrEqual(t, len(all[c.String()]), 7, c.String())
	}
	require.Equal(t, None, Of(""))
}

// Case and punctuation do not count, nor do control characters between words.
func TestWording(t *testing.T) {
	for _, text := range []string{
		"550 USER UNKNOWN", "550 user-unknown", "550 \"user\tunknown\"", "550 (user, unknown)", "550 user\r\nunknown.",
		"550 user\x1b\x00unknown", "550-User unknown",
	} {
		require.Equal(t, BadAddress, Of(text), "%q", text)
	}
	for _, text := range []string{"550 superuser unknownable", "550 user.unknown is a host", "550 user@unknown"} {
		require.Equal(t, Other, Of(text), "%q", text)
	}
}

// A host may say what it likes: the answer comes at once, and the codes alone decide where the words are noise.
func TestHostile(t *testing.T) {
	for name, text := range map[string]string{
		"long":       "550 " + strings.Repeat("a", 10<<20),
		"words":      "450 " + strings.Repeat("a ", 5<<20),
		"controls":   "550 " + strings.Repeat("\x00\r\n\x1b[2J", 1<<20),
		"dots":       "550 " + strings.Repeat("a.", 1<<20),
		"addresses":  "550 " + strings.Repeat("a@", 1<<20),
		"half runes": "550 " + strings.Repeat("\xff\xc3", 1<<20),
		"nested":     strings.Repeat("4.4.1 the destination does not answer: ", 1<<18) + "550",
		"far":        "550 " + strings.Repeat("x", most) + " user unknown",
	} {
		require.Contains(t, []Class{Other, Network}, Of(text), name)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		text := make([]byte, rnd.IntN(2*most))
		for i := range text {
			text[i] = byte(rnd.Uint32())
		}
		c := Of(string(text))
		require.Less(t, c, count)
		if len(text) > 0 && text[0] != '2' {
			require.NotEqual(t, None, c)
		}
	}
}

func FuzzOf(f *testing.F) {
	for _, texts := range corpus(f) {
		for _, text := range texts {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if c := Of(text); c >= count || c == None != (text == "" || text[0] == '2') {
			t.Fatalf("%q: %d", text, c)
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	for _, text := range []string{
		"250 2.0.0 Ok: queued as 4711ABCDEF", "4.4.1 connection refused", "550 " + strings.Repeat("a user ", most),
	} {
		require.Zero(t, testing.AllocsPerRun(100, func() { Of(text) }), text)
	}
}

// A line that no text can reach, or a phrase that is not in the form that texts are brought into, does nothing.
func TestTableIsSound(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9.\x80-\xff]+( [a-z0-9.\x80-\xff]+)*$`)
	seen := map[string]int{}
	for i, l := range lines {
		require.NotEqual(t, None, l.class)
		require.Less(t, l.class, count)
		require.Regexp(t, `^(own|[45]\d{0,2})?$`, l.code)
		require.Regexp(t, `^(\d{1,3}\.(\d{1,3})?)?$`, l.status)
		if l.phrases == "" {
			require.NotEmpty(t, l.code+l.status)
			continue
		}
		for text := range strings.SplitSeq(l.phrases, "|") {
			for part := range strings.SplitSeq(text, " ... ") {
				require.Regexp(t, form, strings.TrimSuffix(part, "*"), "line %d, %q", i, text)
				require.GreaterOrEqual(t, len(part), 2, "line %d, %q", i, text)
			}
			at := fmt.Sprint(l.code, l.status, text)
			first, again := seen[at]
			require.False(t, again, "%q stands in lines %d and %d", text, first, i)
			seen[at] = i
		}
	}
}

func TestNamesAndAdvice(t *testing.T) {
	require.Empty(t, None.String())
	require.Empty(t, None.Advice())
	require.Equal(t, "other", Class(200).String())
	require.Empty(t, Class(200).Advice())
	var all []string
	for c := None + 1; c < count; c++ {
		require.Regexp(t, `^[a-z_]+$`, c.String())
		all = append(all, c.String())
		if c != Other {
			require.NotEmpty(t, c.Advice(), c.String())
		}
	}
	slices.Sort(all)
	require.Len(t, slices.Compact(all), Classes-1)
}

func BenchmarkOf(b *testing.B) {
	for name, text := range map[string]string{
		"ok": "250 2.0.0 Ok: queued as 4711ABCDEF", "short": "4.4.1 connection refused", "google": corpus(b)["content"][0],
		"unknown": "550 " + strings.Repeat("nothing of this ", 30),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Of(text)
			}
		})
	}
}
