redo-ifchange simple.made
"${RDVM:-rdvm}" pack --format tar -o "$3" simple
