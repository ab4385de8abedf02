package replyclass

import (
	"bytes"
	"strings"
)

// most bounds what is read of a reply. The queue keeps 512 octets of one.
const most = 1024

// Of classifies a reply as the queue keeps it: "451 4.7.1 Greylisted", or the relay's own words, which have an enhanced
// code only ("4.4.1 connection refused"). It allocates nothing, and takes a few microseconds at most, however long the
// reply is. A success and an empty reply are None, any other text is at least Other.
func Of(reply string) Class {
	if reply == "" || reply[0] == '2' {
		return None
	}
	return classify(nil, reply)
}

// classify asks a site's own rules first, if there are any.
func classify(own *table, reply string) Class {
	s := subject{}
	s.code, s.status, reply = codes(reply[:min(len(reply), most)])
	if s.code == "" {
		// The relay puts an earlier answer behind these words; that one counts.
		for _, lead := range [...]string{"the destination does not answer: ", "; last: "} {
			if _, last, ok := strings.Cut(reply, lead); ok && last != "" && last[0] != '2' {
				return classify(own, last)
			}
		}
	}
	var room [most + 2]byte
	s.words = words(room[:0], reply)
	if own != nil {
		if class, ok := own.first(&s); ok {
			return class
		}
	}
	class, _ := builtin.first(&s)
	return class
}

// subject is a reply taken apart.
type subject struct {
	code   string // "550"; empty: the relay's own words
	status string // "5.1.1"; empty: none
	words  []byte // the text, see words
}

// codes cuts the codes off a reply.
func codes(reply string) (code, status, text string) {
	text = strings.TrimLeft(reply, " ")
	if len(text) >= 3 && digits(text[:3]) == 3 && (len(text) == 3 || text[3] == ' ' || text[3] == '-') {
		code, text = text[:3], strings.TrimLeft(text[3:], " -")
	}
	first, rest, _ := strings.Cut(text, " ")
	if first = strings.Trim(first, "#()[]:;,-"); isStatus(first) { // some hosts adorn it
		status, text = first, rest
	}
	return code, status, text
}

func digits(s string) (n int) {
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}

// isStatus recognises an enhanced code (RFC 3463 §2).
func isStatus(s string) bool {
	if len(s) < 5 || s[0] != '4' && s[0] != '5' && s[0] != '2' || s[1] != '.' {
		return false
	}
	n := digits(s[2:])
	subject, detail := s[2:2+n], s[2+n:]
	return len(subject) >= 1 && len(subject) <= 3 && len(detail) >= 2 && len(detail) <= 4 && detail[0] == '.' &&
		digits(detail[1:]) == len(detail)-1
}

// words appends a text as words in lower case with one space before and behind each. All but letters, digits and dots
// within a word separates words; apostrophes are left out, and so are addresses: a user may be called spam. Octets
// beyond ASCII are letters.
func words(to []byte, text string) []byte {
	to = append(to, ' ')
	begin := len(to) // of what would be an address's local part
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case isWord(c):
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			to = append(to, c)
			continue
		case c == '@':
			to = to[:begin]
			for i+1 < len(text) && !endsAddress(text[i+1]) {
				i++
			}
			continue
		case c == '\'':
			continue
		case c == '.' && to[len(to)-1] != ' ' && i+1 < len(text) && isWord(text[i+1]):
			to = append(to, c)
			continue
		case to[len(to)-1] != ' ':
			to = append(to, ' ')
		}
		if endsAddress(text[i]) {
			begin = len(to)
		}
	}
	if to[len(to)-1] != ' ' {
		to = append(to, ' ')
	}
	return to
}

// endsAddress recognises what can not stand in an address without quotes.
func endsAddress(c byte) bool { return c <= ' ' || strings.IndexByte("<>()[],;:\"", c) >= 0 }

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}

// rule is a line of the table. It fits where all of its conditions do.
type rule struct {
	class   Class
	own     bool   // only the relay's own words
	code    string // begin of a host's SMTP code: "4", "45", "450"; empty: any, and the relay's own words
	status  string // enhanced code without its class, "7.1"; a subject alone, "1."
	phrases bool   // the text must have one of its phrases
}

// fits judges the codes.
func (r *rule) fits(s *subject) bool {
	return (!r.own || s.code == "") && strings.HasPrefix(s.code, r.code) && (r.status == "" || s.hasStatus(r.status))
}

func (s *subject) hasStatus(want string) bool {
	if len(s.status) < 2 {
		return false
	}
	have := s.status[2:]
	return have == want || strings.HasSuffix(want, ".") && strings.HasPrefix(have, want)
}

// table is a list of rules, with their phrases by how they begin.
type table struct {
	rules   []rule
	phrases map[begin][]phrase
}

// begin is the first octets of a phrase. A word has two letters at least, and a space follows it.
type begin [3]byte

// phrase is words that follow each other, or several such that come in this order.
type phrase struct {
	rule  int
	parts [][]byte
}

// add takes a phrase of a rule: words in lower case; "greylist*" is how a word begins, and " ... " stands for any words
// in between. A word also begins behind a dot: "spamhaus.org" fits "zen.spamhaus.org".
func (t *table) add(rule int, text string) {
	p := phrase{rule: rule}
	for part := range strings.SplitSeq(text, " ... ") {
		bare, open := strings.CutSuffix(part, "*")
		if !open {
			bare += " "
		}
		p.parts = append(p.parts, []byte(bare))
	}
	key := begin(p.parts[0])
	t.phrases[key] = append(t.phrases[key], p)
}

// first is the class of the first rule that fits; false: none does.
func (t *table) first(s *subject) (Class, bool) {
	best := len(t.rules)
	for i := 1; i+len(begin{}) <= len(s.words); i++ {
		if before := s.words[i-1]; before != ' ' && before != '.' {
			continue
		}
		for _, p := range t.phrases[begin(s.words[i:])] {
			if p.rule < best && p.at(s.words[i:]) && t.rules[p.rule].fits(s) {
				best = p.rule
			}
		}
	}
	for i := range t.rules[:best] {
		if r := &t.rules[i]; !r.phrases && r.fits(s) {
			return r.class, true
		}
	}
	if best == len(t.rules) {
		return Other, false
	}
	return t.rules[best].class, true
}

// at reports whether a text begins with a phrase.
func (p *phrase) at(words []byte) bool {
	if !bytes.HasPrefix(words, p.parts[0]) {
		return false
	}
	words = words[len(p.parts[0])-1:]
	for _, part := range p.parts[1:] {
		i := indexWord(words, part)
		if i < 0 {
			return false
		}
		words = words[i+len(part)-1:] // the space behind it may be that before the next one
	}
	return true
}

// indexWord finds a part at the begin of a word.
func indexWord(words, part []byte) int {
	for from := 0; ; {
		i := bytes.Index(words[from:], part)
		if i < 0 {
			return -1
		}
		if i += from; i > 0 && (words[i-1] == ' ' || words[i-1] == '.') {
			return i
		}
		from = i + 1
	}
}
