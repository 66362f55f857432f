"""What is collected: Debian packages with documentation. Their licences are read from their own copyright files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A Debian package, how to read its files, and which of them."""

    name: str
    kind: str = "man"
    pattern: str = "usr/share/man/man*/*"


MANUALS = """
    manpages manpages-dev perl-doc git-man e2fsprogs btrfs-progs lvm2 mdadm iproute2 iptables nftables apt dpkg-dev
    debhelper devscripts util-linux procps valgrind ltrace mercurial-common mariadb-client stress-ng sox ffmpeg coreutils
    tar findutils grep sed gawk rsync screen wget systemd strace openssh-client curl libcurl4-doc tmux tcpdump zsh-common
    ncurses-doc libx11-doc netpbm tcl8.6-doc libssl-doc erlang-manpages subversion postgresql-client-15 graphviz
    imagemagick-6.q16
"""

PAGES = {
    "python3.11-doc": "usr/share/doc/python3.11/html/**/*.html",
    "postgresql-doc-15": "usr/share/doc/postgresql-doc-15/html/*.html",
    "sqlite3-doc": "usr/share/doc/sqlite3/**/*.html",
    "python-django-doc": "usr/share/doc/python-django-doc/html/**/*.html",
    "python-pandas-doc": "usr/share/doc/python-pandas-doc/html/**/*.html",
    "debian-handbook": "usr/share/doc/debian-handbook/html/en-US/*.html",
    "debian-reference-en": "usr/share/debian-reference/*.en.html",
    "debian-policy": "usr/share/doc/debian-policy/policy.html/*.html",
    "developers-reference": "usr/share/developers-reference/*.html",
    "debian-faq": "usr/share/doc/debian/FAQ/*.en.html",
    "gimp-help-en": "usr/share/gimp/2.0/help/en/*.html",
    "libreoffice-help-en-us": "usr/share/libreoffice/help/en-US/text/**/*.html",
    "linux-doc-6.1": "usr/share/doc/linux-doc-6.1/html/**/*.html",
    "rust-doc": "usr/share/doc/rust-doc/html/[a-z]*/**/*.html",
    "postfix-doc": "usr/share/doc/postfix/html/*.html",
    "apache2-doc": "usr/share/doc/apache2-doc/manual/en/**/*.html",
    "r-doc-html": "usr/share/R/doc/manual/*.html",
}

PACKAGES = [
    *(Package(name) for name in MANUALS.split()),
    *(Package(name, "html", pattern) for name, pattern in PAGES.items()),
    Package("gnome-user-docs", "mallard", "usr/share/help/C/**/*.page"),
    Package("cmake-data", "rst", "usr/share/cmake-*/Help/**/*.rst"),
    Package("wordnet-base", "wordnet", "usr/share/wordnet/data.*"),
    Package("dict-foldoc", "dictionary", "usr/share/dictd/foldoc.*"),
    Package("dict-gcide", "dictionary", "usr/share/dictd/gcide.*"),
    Package("dict-jargon", "dictionary", "usr/share/dictd/jargon.*"),
]
