package mailfile

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// uidlistName is where Dovecot keeps the unique ids of a Maildir folder.
const uidlistName = "dovecot-uidlist"

// UIDLs says where the unique ids of messages come from that POP3 clients know
// already: a list, else the Maildir's dovecot-uidlist, else the field X-UIDL.
type UIDLs struct {
	listed map[string]string
}

// ReadUIDLs reads a list of unique ids: a dovecot-uidlist, or lines with the name
// of a file or the number of a message, a space, and its unique id. An empty path
// is no list.
func ReadUIDLs(path string) (*UIDLs, error) {
	if path == "" {
		return &UIDLs{}, nil
	}
	listed, err := readUIDLs(path)
	return &UIDLs{listed}, err
}

// Dovecot's list begins with "3 V<uidvalidity> N<next uid> ...", or in its first
// form with "1 <uidvalidity> <next uid>".
var uidlistHead = regexp.MustCompile(`^(?:3 (?:\S+ )*?V(\d+)(?: |$)|1 (\d+) \d+$)`)

func readUIDLs(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	listed := map[string]string{}
	in := bufio.NewScanner(f)
	line := takePair
	for n := 1; in.Scan(); n++ {
		text := strings.TrimRight(in.Text(), "\r ")
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
			if m := uidlistHead.FindStringSubmatch(text); m != nil {
				validity, err := strconv.ParseUint(m[1]+m[2], 10, 32)
				if err != nil {
					return nil, fmt.Errorf("%s, line 1: the uidvalidity is no number of 32 bits", path)
				}
				line = func(listed map[string]string, text string) bool {
					return takeDovecot(listed, text, uint32(validity))
				}
				continue
			}
		}
		if text != "" && !line(listed, text) {
			return nil, fmt.Errorf("%s, line %d: "+
				"a line is the name of a file or the number of a message, a space, and a unique id", path, n)
		}
	}
	return listed, in.Err()
}

// takePair reads "NAME UIDL". The name may have spaces.
func takePair(listed map[string]string, text string) bool {
	i := strings.LastIndexAny(text, " \t")
	if i <= 0 {
		return false
	}
	listed[uniqueName(strings.TrimSpace(text[:i]))] = text[i+1:]
	return true
}

// takeDovecot reads "UID [KEY…] :NAME" or "UID NAME". A key P is the unique id;
// without one Dovecot makes it of uid and uidvalidity (pop3_uidl_format %08Xu%08Xv).
func takeDovecot(listed map[string]string, text string, validity uint32) bool {
	number, rest, ok := strings.Cut(text, " ")
	uid, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil {
		return false
	}
	id := fmt.Sprintf("%08x%08x", uid, validity)
	if keys, name, ok := strings.Cut(" "+rest, " :"); ok {
		for _, k := range strings.Fields(keys) {
			if k[0] == 'P' && len(k) > 1 {
				id = k[1:]
			}
		}
		rest = name
	}
	listed[uniqueName(rest)] = id
	return true
}

// uniqueName is a file's name without the flags of a Maildir.
func uniqueName(name string) string {
	unique, _ := partFlags(name)
	return unique
}

var uidlField = regexp.MustCompile(`(?im)^X-UIDL:[ \t]*(?:\r?\n[ \t]+)?(.*?)[ \t\r]*$`)

// ownUIDL is what the message says of itself, as servers that keep mbox files do.
func ownUIDL(header []byte) string {
	m := uidlField.FindSubmatch(header)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// MayUIDL reports whether a POP3 server may show a unique id (RFC 1939 §7).
func MayUIDL(text string) bool {
	for i := range len(text) {
		if text[i] < 0x21 || text[i] > 0x7e {
			return false
		}
	}
	return len(text) >= 1 && len(text) <= 70
}
