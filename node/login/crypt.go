package login

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/md5crypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"

	"relay/smtp/printable"
)

// maxCryptRounds bounds what a login against an imported hash may cost: about
// half a second. The field's default is 5,000, and crypt(5) goes up to
// 999,999,999, which would be a way to stop a node.
const maxCryptRounds = 500000

var errCryptHash = errors.New("password hash is malformed")

// IsCrypt reports whether a stored hash is of the kinds that Unix systems keep
// in their shadow files (crypt(5)): MD5, SHA-256, SHA-512. New ones are never
// made; a login turns them into argon2id.
//
// Hashes of other systems (bcrypt, MD5-, SHA-256-, SHA-512-crypt) are taken as they are and become
// argon2id at the first login. SHA-crypt with more than 500,000 rounds is refused at the import:
// logins would cost seconds, and two at a time are hashed.
func IsCrypt(stored string) bool {
	for _, prefix := range [...]string{"$1$", "$5$", "$6$"} {
		if strings.HasPrefix(stored, prefix) {
			return true
		}
	}
	return false
}

// ParseCrypt reads a hash that IsCrypt knows.
func ParseCrypt(stored string) (algorithm.Digest, error) {
	for i := range len(stored) {
		if c := stored[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(":;*!\\", c) >= 0 { // crypt(5)
			return nil, errCryptHash
		}
	}
	if strings.HasPrefix(stored, "$1$") {
		d, err := md5crypt.Decode(stored)
		if err != nil || len(d.Key()) != 22 || len(d.Salt()) > 8 {
			return nil, errCryptHash
		}
		return d, nil
	}
	d, err := shacrypt.Decode(stored)
	if err != nil || len(d.Salt()) > 16 {
		return nil, errCryptHash
	}
	if want := map[byte]int{'5': 43, '6': 86}[stored[1]]; len(d.Key()) != want {
		return nil, errCryptHash
	}
	if text, given := strings.CutPrefix(strings.Split(stored, "$")[2], "rounds="); given {
		rounds, err := strconv.Atoi(text)
		if err != nil || rounds < shacrypt.IterationsMin || rounds > maxCryptRounds {
			return nil, fmt.Errorf("password hash has %s rounds, %d to %d are taken", printable.Text(text, 20),
				shacrypt.IterationsMin, maxCryptRounds)
		}
	}
	return d, nil
}

func checkCrypt(stored, secret string) (bool, error) {
	d, err := ParseCrypt(stored)
	if err != nil {
		return false, err
	}
	return d.MatchAdvanced(secret)
}
