redo-ifchange install.made download.made
"${RDVM:-rdvm}" pack --format tar --base download -o "$3" install
