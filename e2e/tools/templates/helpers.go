// What External Secrets' templates have beside Sprig, on Go's own libraries: an independent second version of it.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"strings"

	"sigs.k8s.io/yaml"
	"software.sslmate.com/src/go-pkcs12"
)

var helpers = map[string]any{
	"toYaml": func(v any) string {
		out, err := yaml.Marshal(v)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(string(out), "\n")
	},
	"fromYaml": func(text string) map[string]any {
		out := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &out); err != nil {
			// Our words for it: Go's quote the text.
			return map[string]any{"Error": "the text is no map in YAML"}
		}
		return out
	},
	"hexdec": func(text string) string {
		out, err := hex.DecodeString(text)
		if err != nil {
			return err.Error()
		}
		return string(out)
	},
	"filterPEM":        filterPEM,
	"filterCertChain":  filterCertChain,
	"certSANs":         certSANs,
	"rsaDecrypt":       rsaDecrypt,
	"jwkPublicKeyPem":  func(text string) (string, error) { return jwkPem(text, false) },
	"jwkPrivateKeyPem": func(text string) (string, error) { return jwkPem(text, true) },
	"pkcs12key":        func(in string) (string, error) { return pkcs12key("", in) },
	"pkcs12keyPass":    pkcs12key,
	"pkcs12cert":       func(in string) (string, error) { return pkcs12cert("", in) },
	"pkcs12certPass":   pkcs12cert,
}

// What Go writes in one of the ways that there are, in base64: for stores that we read. Only Go has it.
func goPkcs12(how, password, key, certificates string) (string, error) {
	encoders := map[string]*pkcs12.Encoder{
		"LegacyRC2":    pkcs12.LegacyRC2,
		"LegacyDES":    pkcs12.LegacyDES,
		"Modern2023":   pkcs12.Modern2023,
		"Modern2026":   pkcs12.Modern2026,
		"Passwordless": pkcs12.Passwordless,
	}
	block, _ := pem.Decode([]byte(key))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", err
	}
	var chain []*x509.Certificate
	for rest := []byte(certificates); ; {
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", err
		}
		chain = append(chain, certificate)
	}
	store, err := encoders[how].Encode(parsed, chain[0], chain[1:], password)
	return base64.StdEncoding.EncodeToString(store), err
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func withoutJunk(in string) string {
	if at := strings.Index(in, "-----BEGIN"); at >= 0 {
		return in[at:]
	}
	return in
}

func filterPEM(kind, in string) (string, error) {
	rest, out := []byte(withoutJunk(in)), ""
	for {
		block, behind := pem.Decode(rest)
		rest = behind
		if block == nil {
			break
		}
		if strings.EqualFold(block.Type, kind) {
			out += string(pem.EncodeToMemory(block))
		}
	}
	if out == "" && len(rest) > 0 {
		return "", errors.New("junk")
	}
	return out, nil
}

func ordered(in []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		block, rest := pem.Decode(in)
		if block == nil {
			break
		}
		in = rest
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	parent := make([]int, len(all))
	isParent := make([]bool, len(all))
	for i, child := range all {
		parent[i] = -1
		for j, signer := range all {
			if i != j && bytes.Equal(child.AuthorityKeyId, signer.SubjectKeyId) {
				parent[i], isParent[j] = j, true
				break
			}
		}
	}
	leaf := -1
	for i := range all {
		if !isParent[i] {
			if leaf >= 0 {
				return nil, errors.New("several leaves")
			}
			leaf = i
		}
	}
	if leaf < 0 {
		return nil, errors.New("no leaf")
	}
	var chain []*x509.Certificate
	for at := leaf; at >= 0; at = parent[at] {
		if len(chain) == len(all) {
			return nil, errors.New("cycle")
		}
		chain = append(chain, all[at])
	}
	return chain, nil
}

func isRoot(cert *x509.Certificate) bool {
	return cert.AuthorityKeyId == nil || bytes.Equal(cert.AuthorityKeyId, cert.SubjectKeyId)
}

func filterCertChain(kind, in string) (string, error) {
	chain, err := ordered([]byte(in))
	if err != nil {
		return "", err
	}
	out := ""
	for i, cert := range chain {
		is := map[string]bool{
			"leaf":         i == 0 && !isRoot(cert),
			"intermediate": i > 0 && !isRoot(cert),
			"root":         i == len(chain)-1 && isRoot(cert),
		}
		if is[kind] {
			out += encode("CERTIFICATE", cert.Raw)
		}
	}
	return out, nil
}

func certSANs(in string) ([]string, error) {
	block, _ := pem.Decode([]byte(withoutJunk(in)))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	out := append([]string{}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		out = append(out, ip.String())
	}
	out = append(out, cert.EmailAddresses...)
	for _, uri := range cert.URIs {
		out = append(out, uri.String())
	}
	return out, nil
}

func privateKey(der []byte) (any, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	return x509.ParseECPrivateKey(der)
}

func rsaDecrypt(scheme, algorithm, in, key string) (string, error) {
	if scheme == "None" {
		return in, nil
	}
	if scheme != "RSA-OAEP" {
		return "", errors.New("scheme")
	}
	block, _ := pem.Decode([]byte(key))
	if block == nil {
		return "", errors.New("no PEM")
	}
	parsed, err := privateKey(block.Bytes)
	if err != nil {
		return "", err
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return "", errors.New("no RSA key")
	}
	var h hash.Hash
	switch algorithm {
	case "SHA1":
		h = sha1.New()
	case "SHA512":
		h = sha512.New()
	default:
		h = sha256.New()
	}
	out, err := rsa.DecryptOAEP(h, nil, private, []byte(in), nil)
	return string(out), err
}

func jwkPem(text string, private bool) (string, error) {
	var k struct{ Kty, Crv, N, E, D, P, Q, X, Y string }
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return "", err
	}
	raw := func(s string) []byte {
		out, _ := base64.RawURLEncoding.DecodeString(s)
		return out
	}
	num := func(s string) *big.Int { return new(big.Int).SetBytes(raw(s)) }
	var public crypto.PublicKey
	var secret crypto.PrivateKey
	switch k.Kty {
	case "RSA":
		pub := rsa.PublicKey{N: num(k.N), E: int(num(k.E).Int64())}
		public = &pub
		if k.D != "" {
			key := &rsa.PrivateKey{PublicKey: pub, D: num(k.D), Primes: []*big.Int{num(k.P), num(k.Q)}}
			if err := key.Validate(); err != nil {
				return "", err
			}
			key.Precompute()
			secret = key
		}
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Crv]
		if curve == nil {
			return "", errors.New("curve")
		}
		pub := ecdsa.PublicKey{Curve: curve, X: num(k.X), Y: num(k.Y)}
		public = &pub
		if k.D != "" {
			secret = &ecdsa.PrivateKey{PublicKey: pub, D: num(k.D)}
		}
	case "OKP":
		if k.Crv != "Ed25519" {
			return "", errors.New("curve")
		}
		public = ed25519.PublicKey(raw(k.X))
		if k.D != "" {
			secret = ed25519.NewKeyFromSeed(raw(k.D))
		}
	default:
		return "", fmt.Errorf("kty %q", k.Kty)
	}
	if private {
		if secret == nil {
			return "", errors.New("no private key")
		}
		der, err := x509.MarshalPKCS8PrivateKey(secret)
		return encode("PRIVATE KEY", der), err
	}
	if secret != nil {
		return "", errors.New("a private key")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	return encode("PUBLIC KEY", der), err
}

func pkcs12key(password, in string) (string, error) {
	key, _, _, err := pkcs12.DecodeChain([]byte(in), password)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return encode("PRIVATE KEY", der), err
}

func pkcs12cert(password, in string) (string, error) {
	_, cert, authorities, err := pkcs12.DecodeChain([]byte(in), password)
	if err != nil {
		return "", err
	}
	out := encode("CERTIFICATE", cert.Raw)
	for _, authority := range authorities {
		out += encode("CERTIFICATE", authority.Raw)
	}
	if chain, err := ordered([]byte(out)); err == nil {
		out = ""
		for _, cert := range chain {
			out += encode("CERTIFICATE", cert.Raw)
		}
	}
	return out, nil
}
